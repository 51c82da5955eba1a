//! docs/format.md tells the truth: its tables decode a store's bytes, and its examples are a
//! store's own.
//!
//! The reader in this file knows no offset: it takes them all from the document's tables, and
//! checks every checksum by the document's rules. After a change of the format, run the test with
//! `UPDATE_FORMAT=1` to have the examples written anew; tables and prose are for a person.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use aryavarth::fs::{Crash, Fs, OpenHow, SimFs, Site, read_full};
use aryavarth::{Batch, KvStore, KvsError, Options, record_bytes, verify};
use crc32c::{crc32c, crc32c_append};

use crate::runner::TestClock;

const DIR: &str = "/db";
/// The manifest of a store that was opened once.
const MANIFEST: u64 = 1;

/// The deadline in the example: a minute away.
const DEADLINE: u64 = 1_700_000_060_000;
/// The same as a word: by the wall clock.
const DEADLINE_WORD: u64 = 1 << 63 | DEADLINE;

/// The store of the document's examples, still open: one put, then a batch of two.
fn example(fs: &SimFs) -> KvStore {
    let store = KvStore::open_with(DIR, options(fs)).unwrap();
    store.put(b"name", b"Alice").unwrap();
    store.write(Batch::new().put("city", "Paris").delete("name")).unwrap();
    store
}

fn options(fs: &SimFs) -> Options {
    let (fs, clock) = (Arc::new(fs.clone()), TestClock::new());
    Options { fs, clock, seed: 0x5eed, background: false, ..Options::default() }
}

/// The files of the example after one more put and a clean close.
fn closed_example() -> SimFs {
    let fs = SimFs::new();
    let store = example(&fs);
    store.with_space(1).put_until(b"k", b"v", DEADLINE).unwrap();
    store.close().unwrap();
    fs
}

fn read(fs: &SimFs, name: &str) -> Vec<u8> {
    let file = fs.open(Site::VerifyOpen, &Path::new(DIR).join(name), OpenHow::Read).unwrap();
    let mut bytes = vec![0; count(file.len(Site::VerifyLength).unwrap())];
    assert_eq!(read_full(&*file, Site::SegmentScan, &mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// A number from a file as a number of bytes.
fn count(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn page_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format.md")
}

/// The document's tables.
struct Page {
    text: String,
}

#[derive(Debug)]
struct Field {
    bytes: usize,
    name: String,
}

impl Page {
    /// Read once, so that no test meets the document while another one writes it.
    fn load() -> &'static Page {
        static PAGE: LazyLock<Page> = LazyLock::new(|| Page {
            text: fs::read_to_string(page_path()).expect("docs/format.md"),
        });
        &PAGE
    }

    /// The cells of a table's rows below its head.
    fn rows(&self, name: &str) -> Vec<Vec<&str>> {
        let marker = format!("<!-- table: {name} -->\n");
        let (_, table) = self.text.split_once(&marker).expect(&marker);
        let rows = table.lines().take_while(|line| line.starts_with('|')).skip(2);
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    /// The fields of a layout, which lie back to back from offset 0.
    fn layout(&self, name: &str) -> Vec<Field> {
        let mut end = 0;
        let mut fields = Vec::new();
        for row in self.rows(name) {
            assert_eq!(row[0].parse(), Ok(end), "the offset of {} in the {name}", row[2]);
            let bytes = row[1].parse().expect("a field's bytes");
            fields.push(Field { bytes, name: row[2].to_owned() });
            end += bytes;
        }
        fields
    }

    /// The fields before the key of a record with these flags.
    fn before_key(&self, flags: u64) -> Vec<Field> {
        let field = |row: Vec<&str>| {
            let flag: u64 = row[0].parse().ok()?;
            let bytes = row[1].parse().expect("a field's bytes");
            (flags & flag != 0).then(|| Field { bytes, name: row[2].to_owned() })
        };
        self.rows("payload").into_iter().filter_map(field).collect()
    }

    /// The words of the manifest's operations, by tag.
    fn operations(&self) -> BTreeMap<u8, (String, Vec<Field>)> {
        let field = |name: &str| Field { bytes: 8, name: name.trim().to_owned() };
        let operation = |row: Vec<&str>| {
            let words = row[2].split(',').filter(|name| !name.trim().is_empty()).map(field);
            (row[0].parse().expect("a tag"), (row[1].to_owned(), words.collect()))
        };
        self.rows("manifest operations").into_iter().map(operation).collect()
    }
}

type Values = BTreeMap<String, u64>;

/// A line of an example is full with these, though a tag and its word may make one more.
const LINE_BYTES: usize = 8;

/// A file that is read from its beginning to its end, and its bytes so far in hexadecimal.
struct Dump<'a> {
    bytes: &'a [u8],
    at: usize,
    out: String,
    /// Where the line that is being made begins, its part of the file, and its meaning so far.
    line_at: usize,
    title: String,
    meanings: Vec<String>,
}

impl<'a> Dump<'a> {
    fn new(bytes: &'a [u8]) -> Dump<'a> {
        let (title, meanings) = (String::new(), Vec::new());
        Dump { bytes, at: 0, out: String::new(), line_at: 0, title, meanings }
    }

    /// Begins a part of the file.
    fn title(&mut self, text: &str) {
        self.end_line();
        self.title = format!("{text}: ");
    }

    /// The next `length` bytes, with their meaning.
    fn take(&mut self, length: usize, meaning: &str) -> &'a [u8] {
        if self.at - self.line_at + length > LINE_BYTES + 1 {
            self.end_line();
        }
        let bytes = &self.bytes[self.at..self.at + length];
        self.at += length;
        if length > 0 {
            self.meanings.push(meaning.to_owned());
        }
        if self.at - self.line_at >= LINE_BYTES {
            self.end_line();
        }
        bytes
    }

    fn end_line(&mut self) {
        let mut meaning = std::mem::take(&mut self.title) + &self.meanings.join(", ");
        self.meanings.clear();
        let bytes = &self.bytes[self.line_at..self.at];
        let chunk = if bytes.len() == LINE_BYTES + 1 { bytes.len() } else { LINE_BYTES };
        for line in bytes.chunks(chunk) {
            let hex = line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            let line_text = format!("{:>4}  {hex:<26}  {meaning}", self.line_at);
            writeln!(self.out, "{}", line_text.trim_end()).unwrap();
            meaning.clear();
            self.line_at += line.len();
        }
    }

    fn end(mut self) -> String {
        self.end_line();
        self.out
    }

    fn text(&mut self, name: &str, length: u64) -> &'a [u8] {
        let length = count(length);
        let text = String::from_utf8_lossy(&self.bytes[self.at..self.at + length]);
        self.take(length, &format!("{name} \"{text}\""))
    }

    fn padding(&mut self) {
        let length = self.at.next_multiple_of(8) - self.at;
        assert!(self.take(length, "padding").iter().all(|&byte| byte == 0));
    }

    fn fields(&mut self, layout: &[Field]) -> Values {
        let mut values = Values::new();
        for Field { bytes, name } in layout {
            let raw = &self.bytes[self.at..self.at + bytes];
            let value = raw.iter().rev().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            let meaning = match name.as_str() {
                "reserved" => name.clone(),
                "magic" | "engine" => {
                    format!("{name} \"{}\"", String::from_utf8_lossy(raw).trim_end_matches('\0'))
                }
                _ if ["CRC", "salt", "store id"].iter().any(|word| name.contains(word)) => {
                    format!("{name} {value:#x}")
                }
                _ => format!("{name} {value}"),
            };
            self.take(*bytes, &meaning);
            values.insert(name.clone(), value);
        }
        values
    }
}

fn assert_crc(found: u64, computed: u32, what: &str) {
    assert_eq!(found, u64::from(computed), "{what}");
}

/// A segment by the document: its bytes, and the fields of its header and of each record.
fn dump_log(page: &Page, bytes: &[u8]) -> (String, Values, Vec<Values>) {
    let mut dump = Dump::new(bytes);
    dump.title("segment header");
    let header = dump.fields(&page.layout("segment header"));
    assert_crc(header["CRC32C of 0..60"], crc32c(&bytes[..60]), "a segment's header");
    let mut records = Vec::new();
    while dump.at < bytes.len() {
        let at = dump.at;
        let number = records.len() + 1;
        dump.title(&format!("record {number}"));
        let record = dump.fields(&page.layout("record header"));
        let seed = header["salt"] ^ at as u64;
        let seed = (seed >> 32) ^ (seed & 0xffff_ffff);
        let crc = crc32c_append(u32::try_from(seed).unwrap(), &bytes[at + 4..at + 24]);
        assert_crc(record["header CRC32C"], crc, "a record's header");
        let payload = dump.at;
        let mut values = record.clone();
        if record["kind"] == 3 {
            values.extend(dump.fields(&page.layout("mark")));
        } else {
            values.extend(dump.fields(&page.before_key(record["flags"])));
            dump.text("key", record["key length"]);
            dump.text("value", record["value length"]);
        }
        let crc = crc32c(&bytes[payload..dump.at]);
        assert_crc(record["payload CRC32C"], crc, "a record's payload");
        dump.padding();
        values.insert("at".to_owned(), at as u64);
        records.push(values);
    }
    (dump.end(), header, records)
}

/// A manifest by the document: its bytes, and every operation with its words.
fn dump_manifest(page: &Page, number: u64, bytes: &[u8]) -> (String, Vec<(String, Values)>) {
    let known = page.operations();
    let mut dump = Dump::new(bytes);
    let mut operations = Vec::new();
    while dump.at + 8 <= bytes.len() && bytes[dump.at..dump.at + 8] != [0; 8] {
        let at = dump.at;
        dump.title("edit");
        let edit = dump.fields(&page.layout("edit header"));
        let end = dump.at + count(edit["payload length"]);
        let place = [number.to_le_bytes(), (at as u64).to_le_bytes()].concat();
        let crc = crc32c_append(crc32c(&place), &bytes[at + 4..end]);
        assert_crc(edit["CRC32C"], crc, "an edit");
        while dump.at < end {
            let (name, words) = &known[&bytes[dump.at]];
            dump.title(name);
            dump.take(1, "tag");
            operations.push((name.clone(), dump.fields(words)));
        }
        dump.padding();
    }
    let end = dump.at;
    assert!(bytes[end..].iter().all(|&byte| byte == 0));
    let zeros = format!("{end:>4}  zeros up to {}\n", bytes.len());
    (dump.end() + &zeros, operations)
}

/// A hint file by the document: its bytes, and the fields of its header and of each entry.
fn dump_hint(page: &Page, bytes: &[u8]) -> (String, Values, Vec<Values>) {
    let mut dump = Dump::new(bytes);
    dump.title("hint header");
    let header = dump.fields(&page.layout("hint header"));
    let mut entries = Vec::new();
    for number in 1..=header["entries"] {
        dump.title(&format!("entry {number}"));
        let mut entry = dump.fields(&page.layout("hint entry"));
        // The flags are those of a record, three bits higher.
        entry.extend(dump.fields(&page.before_key(entry["kind"] >> 3)));
        dump.text("key", entry["key length"]);
        entries.push(entry);
    }
    let crc = crc32c(&bytes[..dump.at]);
    dump.title("footer");
    let footer = dump.take(4, "CRC32C of everything before it");
    assert_eq!(footer, crc.to_le_bytes());
    assert_eq!(dump.at, bytes.len());
    (dump.end(), header, entries)
}

/// The verdict of an open on the example after a crash and a mishap.
fn verdict(mishap: impl Fn(&SimFs, &Path)) -> String {
    let fs = SimFs::new();
    let store = example(&fs);
    let fs = fs.crash(Crash::Everything);
    drop(store);
    mishap(&fs, &Path::new(DIR).join("0.log"));
    match KvStore::open_with(DIR, options(&fs)) {
        Ok(store) => {
            let found = store.recovery();
            let torn = found.torn_at.as_ref().map_or(String::new(), |(_, at)| format!(" at {at}"));
            let value = |key: &[u8]| {
                let value = store.read(key).unwrap();
                value.map_or("absent".into(), |bytes| String::from_utf8(bytes).unwrap())
            };
            let (name, city) = (value(b"name"), value(b"city"));
            let (kept, torn_bytes) = (found.kept_records, found.torn_bytes);
            format!(
                "opens; {kept} records copied, {torn_bytes} bytes torn{torn}\n  name {name}, city {city}"
            )
        }
        Err(KvsError::Corrupt { offset, reason, .. }) => {
            format!("refused, 0.log is damaged at byte {offset}:\n  {reason}")
        }
        Err(error) => panic!("{error}"),
    }
}

fn flip(at: u64) -> impl Fn(&SimFs, &Path) {
    move |fs, path| {
        let file = fs.open(Site::TailOpen, path, OpenHow::Write).unwrap();
        let mut byte = [0];
        read_full(&*file, Site::SegmentScan, &mut byte, at).unwrap();
        file.write_at(Site::FrameWrite, &[byte[0] ^ 1], at).unwrap();
    }
}

fn cut(length: u64) -> impl Fn(&SimFs, &Path) {
    move |fs, path| {
        let file = fs.open(Site::TailOpen, path, OpenHow::Write).unwrap();
        file.truncate(Site::TailTruncate, length).unwrap();
    }
}

fn verdicts() -> String {
    let mut out = String::new();
    let mut tell = |what: &str, verdict: String| writeln!(out, "{what}: {verdict}").unwrap();
    tell("the process was killed", verdict(|_, _| {}));
    tell("byte 200 is damaged", verdict(flip(200)));
    tell("byte 90 is damaged", verdict(flip(90)));
    tell("the file is cut to 168 bytes", verdict(cut(168)));
    out
}

#[test]
fn the_examples_in_the_document_are_the_bytes_of_a_store() {
    let page = Page::load();
    let fs = closed_example();
    let manifest = read(&fs, &format!("MANIFEST-{MANIFEST}"));
    let blocks = [
        ("CURRENT", String::from_utf8(read(&fs, "CURRENT")).unwrap()),
        ("0.log", dump_log(page, &read(&fs, "0.log")).0),
        ("MANIFEST-1", dump_manifest(page, MANIFEST, &manifest).0),
        ("0.hint", dump_hint(page, &read(&fs, "0.hint")).0),
        ("verdicts", verdicts()),
    ];
    let mut text = page.text.clone();
    for (name, block) in blocks {
        let marker = format!("<!-- example: {name} -->\n```text\n");
        let (before, rest) = text.split_once(&marker).expect(&marker);
        let (_, after) = rest.split_once("```\n").expect("the end of the example");
        text = format!("{before}{marker}{block}```\n{after}");
    }
    if std::env::var_os("UPDATE_FORMAT").is_some() {
        fs::write(page_path(), text).unwrap();
    } else {
        assert!(
            text == page.text,
            "the examples in docs/format.md are not what a store writes now; if the format was \
             meant to change, run this test with UPDATE_FORMAT=1 and read the difference"
        );
    }
}

#[test]
fn the_tables_in_the_document_decode_a_segment() {
    let bytes = read(&closed_example(), "0.log");
    let (_, header, records) = dump_log(Page::load(), &bytes);
    assert_eq!(header["magic"], u64::from(u32::from_le_bytes(*b"ARYV")));
    assert_eq!((header["version"], header["kind"]), (3, 0));
    assert_eq!((header["id"], header["base"], header["store id"]), (0, 0, 0x5eed));

    let told = |name: &str| records.iter().map(|record| record[name]).collect::<Vec<_>>();
    assert_eq!(told("kind"), [1, 3, 1, 2, 3, 1], "put, mark, put, tombstone, mark, put");
    assert_eq!(told("sequence number"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        told("flags"),
        [1, 1, 0, 1, 1, 7],
        "the last of each frame; deadline and generation"
    );
    assert_eq!(told("key length"), [4, 0, 4, 4, 0, 1]);
    assert_eq!(told("value length"), [5, 40, 5, 0, 40, 1]);
    assert_eq!(told("at"), [64, 104, 168, 208, 240, 304]);
    assert_eq!((records[5]["deadline"], records[5]["generation"]), (DEADLINE_WORD, 1));

    let mark = &records[1];
    assert_eq!(mark["durable position"], 104, "all before it was synced");
    assert_eq!((mark["time"], mark["store clock"]), (TestClock::START_MS, TestClock::START_MS));
    assert_eq!((mark["term"], mark["index"]), (0, 0));
}

#[test]
fn the_tables_in_the_document_decode_a_manifest() {
    let fs = closed_example();
    let bytes = read(&fs, "MANIFEST-1");
    let (_, operations) = dump_manifest(Page::load(), MANIFEST, &bytes);
    let names: Vec<&str> = operations.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["store", "next", "clock", "add", "seal", "clock", "next", "clock", "clean"]);

    let length = read(&fs, "0.log").len() as u64;
    let (add, seal, next) = (&operations[3].1, &operations[4].1, &operations[6].1);
    for clock in [&operations[5].1, &operations[7].1] {
        let told = (clock["store clock"], clock["time"]);
        assert_eq!(told, (TestClock::START_MS, TestClock::START_MS));
    }
    assert_eq!((add["id"], add["kind"], add["step"]), (0, 0, 128 << 10));
    assert_eq!((seal["id"], seal["base"], seal["end"]), (0, 0, length));
    assert_eq!((seal["lowest number"], seal["highest number"]), (1, 6));
    assert_eq!((seal["records"], seal["purged number"]), (4, 0));
    assert_eq!((next["position"], next["sequence number"]), (length, 7));
}

#[test]
fn the_tables_in_the_document_decode_a_hint_file() {
    let fs = closed_example();
    let (_, header, entries) = dump_hint(Page::load(), &read(&fs, "0.hint"));
    let (_, segment, _) = dump_log(Page::load(), &read(&fs, "0.log"));
    assert_eq!((header["id"], header["salt"]), (segment["id"], segment["salt"]));
    assert_eq!((header["end"], header["entries"]), (352, 4));
    let told = |name: &str| entries.iter().map(|entry| entry[name]).collect::<Vec<_>>();
    assert_eq!(told("kind"), [1, 1, 2, 1 + 16 + 32], "marks have no entry");
    assert_eq!(told("sequence number"), [1, 3, 4, 6]);
    let offsets: Vec<u64> = told("offset / 8").iter().map(|at| at * 8).collect();
    assert_eq!(offsets, [64, 168, 208, 304]);
    assert_eq!(told("record length"), [40, 40, 32, 48]);
    assert_eq!((entries[3]["deadline"], entries[3]["generation"]), (DEADLINE_WORD, 1));
}

/// Gives a manifest, which has the number `number`, another format.
pub(crate) fn set_format(manifest: &mut [u8], number: u64, format: u8) {
    // The tag of the first operation stands at 8, the format behind it.
    manifest[9] = format;
    seal_first_edit(manifest, number);
}

/// Makes the checksum of a manifest's first edit right again.
pub(crate) fn seal_first_edit(manifest: &mut [u8], number: u64) {
    let end = 8 + usize::from(manifest[4]);
    let place = [number.to_le_bytes(), [0; 8]].concat();
    let crc = crc32c_append(crc32c(&place), &manifest[4..end]);
    manifest[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The bytes of version 0 changed from day to day, and a newer version's are not known: neither is
/// read, and neither is touched.
#[test]
fn a_store_of_another_format_is_refused_and_left_as_it_was() {
    for (found_there, remedy) in [(0, "unreleased version"), (4, "a newer version")] {
        let fs = closed_example();
        let path = Path::new(DIR).join("MANIFEST-1");
        let file = fs.open(Site::TailOpen, &path, OpenHow::Write).unwrap();
        let mut bytes = read(&fs, "MANIFEST-1");
        set_format(&mut bytes, MANIFEST, found_there);
        file.write_at(Site::ManifestWrite, &bytes, 0).unwrap();

        let told = |error: KvsError| {
            let text = error.to_string();
            assert!(text.contains("nothing was changed") && text.contains(remedy), "{text}");
            match error {
                KvsError::UnknownFormat { found, known, .. } => (found, known),
                error => panic!("{error}"),
            }
        };
        let version = (u32::from(found_there), 3);
        assert_eq!(told(KvStore::open_with(DIR, options(&fs)).unwrap_err()), version);
        assert_eq!(told(verify(DIR, &options(&fs), |_, _| {}).unwrap_err()), version);
        assert_eq!(read(&fs, "MANIFEST-1"), bytes);
        assert_eq!(read(&fs, "0.log"), read(&closed_example(), "0.log"));
    }
}

#[test]
fn the_sizes_in_the_document_are_those_of_records() {
    let page = Page::load();
    let rows = page.rows("record sizes");
    assert!(rows.len() >= 3, "the table was not understood");
    for row in rows {
        let number = |cell: usize| row[cell].replace(',', "").parse::<usize>().unwrap();
        let (key, value, record) = (number(0), number(1), number(2));
        assert_eq!(record_bytes(key, value), record, "key {key}, value {value}");
        assert_eq!(record - key - value, number(3), "overhead of key {key}, value {value}");
        assert_eq!(18 + key, number(4), "hint entry of key {key}");
    }
}
