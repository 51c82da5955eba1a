//! Figures that may only fall, each with its ceiling in `ceilings.txt`.
//!
//! A line is `KIND SUBJECT NUMBER`. A figure above its ceiling fails its test. A figure below is
//! written down as the new ceiling by a run with `LOWER_CEILINGS=1`; no run raises one. Subjects are coarse (a crate, a page), so
//! that changes of different files do not meet in the table.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use aryavarth_tests::root;

/// The ceilings that are written down.
pub(crate) struct Ceilings {
    lines: BTreeMap<(String, String), usize>,
}

/// Held while the table is read or written: the tests of this program run at the same time.
static TABLE: Mutex<()> = Mutex::new(());

const HEAD: &str = "# Figures that may only fall: see ceilings.rs. Lowered by\n\
                    # LOWER_CEILINGS=1 cargo test -p aryavarth-tests --test tidy\n";

fn path() -> PathBuf {
    root().join("tests/tests/tidy/ceilings.txt")
}

impl Ceilings {
    /// Reads the table.
    pub(crate) fn read() -> Ceilings {
        let _table = TABLE.lock().expect("no test panics here");
        Ceilings { lines: parse() }
    }

    /// The ceiling of a subject: its line, or the rule if it has none.
    pub(crate) fn of(&self, kind: &str, subject: &str, rule: usize) -> usize {
        let key = (kind.to_owned(), subject.to_owned());
        self.lines.get(&key).copied().unwrap_or(rule).max(rule)
    }

    /// Writes a lower figure down, in a run that is to do so. A line goes once its subject keeps
    /// the rule or is gone.
    pub(crate) fn lower(kind: &str, subject: &str, figure: usize, rule: usize) {
        if std::env::var_os("LOWER_CEILINGS").is_none() {
            return;
        }
        let _table = TABLE.lock().expect("no test panics here");
        let mut lines = parse();
        let key = (kind.to_owned(), subject.to_owned());
        if lines.get(&key).is_some_and(|ceiling| figure < *ceiling) {
            lines.insert(key, figure);
        }
        lines.retain(|(one_kind, one), ceiling| {
            let is_kept = one_kind == kind && one == subject && *ceiling <= rule;
            !is_kept && root().join(one).exists()
        });
        let text = lines.iter().map(|((kind, subject), n)| format!("{kind} {subject} {n}\n"));
        fs::write(path(), HEAD.to_owned() + &text.collect::<String>()).expect("it can be written");
    }
}

fn parse() -> BTreeMap<(String, String), usize> {
    let text = fs::read_to_string(path()).expect("the table of ceilings");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (kind, subject) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(((kind, subject), words.next()?.parse().ok()?))
    };
    lines.map(|text| line(text).unwrap_or_else(|| panic!("a line of ceilings: {text}"))).collect()
}
