//! The order of rooms inside a crate, and of crates among each other.
//!
//! A room is a file or a folder of a crate's sources, with all that the folder holds. A crate with
//! an order imports each room only from rooms behind it; in any other crate no two rooms may need
//! each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use aryavarth_tests::{TextFile, root};

use crate::assert_none;
use crate::ceilings::Ceilings;
use crate::sources::{imports, rust_sources};

/// A crate's rooms in their order: each imports only rooms before it. A folder inside a folder is
/// a room of its own if it is named, as `commands/kit`.
pub(crate) struct Order {
    pub(crate) src: &'static str,
    pub(crate) rooms: &'static [&'static str],
}

/// The steps of the engine's data path.
const ENGINE: Order = Order {
    src: crate::ENGINE_SRC,
    rooms: &[
        "sync",
        "fs",
        "error",
        "events",
        "options",
        "deadline",
        "clock",
        "stats",
        "damage",
        "record",
        "engine",
        "segment",
        "manifest",
        "hint",
        "index",
        "watermarks",
        "log",
        "recovery",
        "compaction",
        "scrub",
        "salvage",
        "store",
        "memory",
        "plain",
        "sled",
        "fuzzing",
        "lib",
    ],
};

/// The server, from its limits to its sockets: see the drawing in ARCHITECTURE.md.
const SERVER: Order = Order {
    src: "crates/aryavarth-server/src/",
    rooms: &[
        "limits",
        "error",
        "log",
        "budget",
        "glob",
        "channels",
        "counters",
        "figures",
        "process",
        "thread_pool",
        "settings",
        "upkeep",
        "clients",
        "script",
        "commands/kit",
        "commands/string",
        "commands/keyspace",
        "commands/connection",
        "commands/server",
        "commands/transaction",
        "commands/pubsub",
        "commands/scripting",
        "commands/registry",
        "commands/dispatch",
        "commands",
        "writes/queue",
        "shared",
        "writes/collector",
        "writes",
        "requests",
        "connection",
        "signals",
        "server",
        "lib",
    ],
};

/// The files of a node, and the adapter of consensus over them.
const RAFT: Order = Order {
    src: crate::RAFT_SRC,
    rooms: &[
        "bytes_of", "error", "identity", "entry", "raft_log", "node", "openraft", "fuzzing", "lib",
    ],
};

const ORDERS: &[Order] = &[ENGINE, SERVER, RAFT];

/// Which crates of the workspace a crate may build on, beside those of the registry.
const FLOORS: &[(&str, &[&str])] = &[
    ("aryavarth", &[]),
    ("aryavarth-protocol", &[]),
    ("aryavarth-client", &["aryavarth-protocol"]),
    ("aryavarth-server", &["aryavarth", "aryavarth-protocol"]),
    ("aryavarth-raft", &["aryavarth"]),
];

/// The room of a module path: the longest of the named rooms, or else its first part. The crate's
/// own items are in the room `lib`.
fn room_of<'a>(parts: &'a [String], rooms: &'a [&str]) -> &'a str {
    let path = parts.join("/");
    let is_in = |room: &&&str| {
        path.strip_prefix(**room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let named = rooms.iter().filter(is_in).max_by_key(|room| room.len()).copied();
    named.or_else(|| parts.first().map(String::as_str)).unwrap_or("lib")
}

/// A file's place among the modules of its crate.
fn module_of(file: &TextFile, src: &str) -> Vec<String> {
    let path = file.path.strip_prefix(src).expect("a source of this crate");
    let parts = path.trim_end_matches(".rs").split('/').map(str::to_owned);
    parts.filter(|part| !["mod", "lib", "main"].contains(&part.as_str())).collect()
}

/// An import that leaves its room.
struct Passage {
    /// The file and the line where it stands.
    at: String,
    from: String,
    to: String,
}

/// The sources of a crate and the imports between its rooms.
fn passages(src: &str, rooms: &[&str]) -> Vec<Passage> {
    let files: Vec<TextFile> =
        rust_sources().into_iter().filter(|file| file.path.starts_with(src)).collect();
    let modules: BTreeSet<String> =
        files.iter().filter_map(|file| module_of(file, src).first().cloned()).collect();
    let mut found = Vec::new();
    for file in &files {
        let own = module_of(file, src);
        let from = room_of(&own, rooms);
        for import in imports(file, src) {
            // A name that is no module is an item of the crate's root.
            let is_item = import.parts.first().is_none_or(|first| !modules.contains(first));
            let to = if is_item { "lib" } else { room_of(&import.parts, rooms) };
            if from != to {
                let at = format!("{}:{}", file.path, import.line);
                found.push(Passage { at, from: from.to_owned(), to: to.to_owned() });
            }
        }
    }
    // The root declares all modules, so a room that imports the root's items is in a knot with it.
    let root = |to: &String| Passage { at: src.to_owned(), from: "lib".to_owned(), to: to.clone() };
    found.extend(modules.iter().map(root));
    found
}

#[test]
fn rooms_with_an_order_import_only_rooms_before_them() {
    let mut offenders = Vec::new();
    for Order { src, rooms } in ORDERS {
        let place = |name: &str| rooms.iter().position(|room| *room == name);
        for file in rust_sources().iter().filter(|file| file.path.starts_with(src)) {
            let own = module_of(file, src);
            if place(room_of(&own, rooms)).is_none() {
                offenders.push(format!("{}: in none of the rooms", file.path));
            }
        }
        for Passage { at, from, to } in passages(src, rooms) {
            if place(&to) >= place(&from) {
                offenders.push(format!("{at}: {from} imports {to}, a later room"));
            }
        }
    }
    assert_none(&offenders, "the order of rooms is written in tests/tests/tidy/floors.rs");
}

/// The rooms that need each other, in one knot or in several.
fn knotted(passages: &[Passage]) -> BTreeSet<&str> {
    let mut needs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Passage { from, to, .. } in passages {
        needs.entry(from).or_default().insert(to);
    }
    let reaches_itself = |start: &str| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = needs.get(start).into_iter().flatten().copied().collect();
        while let Some(room) = open.pop() {
            if seen.insert(room) {
                open.extend(needs.get(room).into_iter().flatten());
            }
        }
        seen.contains(start)
    };
    needs.keys().copied().filter(|room| reaches_itself(room)).collect()
}

/// The folders of sources, one for each crate: `crates/aryavarth/src/`.
fn source_folders() -> BTreeSet<String> {
    let folder = |file: TextFile| {
        file.path.split_once("/src/").map(|(package, _)| format!("{package}/src/"))
    };
    rust_sources().into_iter().filter_map(folder).collect()
}

#[test]
fn no_rooms_of_a_crate_are_knotted() {
    let ceilings = Ceilings::read();
    let mut offenders = Vec::new();
    for src in source_folders() {
        let order = ORDERS.iter().find(|order| order.src == src);
        let passages = passages(&src, order.map_or(&[], |order| order.rooms));
        let knotted = knotted(&passages);
        if knotted.len() > ceilings.of("knots", &src, 0) {
            let names: Vec<&str> = knotted.iter().copied().collect();
            offenders.push(format!("{src}: {} need each other", names.join(", ")));
            let is_inside = |one: &&Passage| {
                knotted.contains(one.from.as_str()) && knotted.contains(one.to.as_str())
            };
            let told = passages.iter().filter(is_inside);
            offenders
                .extend(told.map(|one| format!("  {}: {} needs {}", one.at, one.from, one.to)));
        }
        Ceilings::lower("knots", &src, knotted.len(), 0);
    }
    assert_none(&offenders, "rooms of a crate do not need each other");
}

/// The names in a manifest's `[dependencies]`, or in another list of that kind, be it as lines or
/// as tables of their own.
fn dependencies<'a>(manifest: &'a str, list: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    let mut is_list = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let place = header.strip_prefix("target.").and_then(|rest| rest.rsplit_once('.'));
            is_list = place.map_or(header, |(_, place)| place) == list;
            let table = header.strip_prefix(list).and_then(|rest| rest.strip_prefix('.'));
            names.extend(table);
        } else if is_list && !line.starts_with('#') && !line.is_empty() {
            names.extend(line.split([' ', '.', '=']).next());
        }
    }
    names
}

#[test]
fn dependencies_point_down() {
    let mut offenders = Vec::new();
    for (package, allowed) in FLOORS {
        let path = format!("crates/{package}/Cargo.toml");
        let manifest = fs::read_to_string(root().join(&path)).expect("a crate has a manifest");
        for name in dependencies(&manifest, "dependencies") {
            let heavy = ["tokio", "serde", "clap"].iter().any(|heavy| name.starts_with(heavy));
            let is_upward = name.starts_with("aryavarth") && !allowed.contains(&name);
            if is_upward || (*package == "aryavarth" && heavy) {
                offenders.push(format!("{path}: {name}"));
            }
        }
    }
    assert_none(&offenders, "a crate depends only on floors below it, the engine on nothing heavy");
}

#[test]
fn every_dependency_has_its_reason() {
    let page = root().join("docs/decisions/dependencies.md");
    let page = fs::read_to_string(page).expect("docs/decisions/dependencies.md");
    let reasons = crate::names_in_code(page.lines().filter(|line| line.starts_with("- ")));
    let mut used = BTreeSet::new();
    let files = aryavarth_tests::text_files();
    for file in files.iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        for list in ["dependencies", "dev-dependencies", "build-dependencies"] {
            used.extend(dependencies(&file.text, list).into_iter().map(str::to_owned));
        }
    }
    used.retain(|name| !name.starts_with("aryavarth"));
    let missing: Vec<String> = used.difference(&reasons).cloned().collect();
    assert_none(&missing, "a dependency has a line in docs/decisions/dependencies.md");
}

#[test]
fn rooms_that_need_each_other_through_a_third_are_knotted() {
    let passage = |from: &str, to: &str| Passage {
        at: String::new(),
        from: from.to_owned(),
        to: to.to_owned(),
    };
    let mut passages = vec![passage("c", "b"), passage("b", "a"), passage("d", "c")];
    assert!(knotted(&passages).is_empty());
    passages.push(passage("a", "c"));
    assert_eq!(knotted(&passages), BTreeSet::from(["a", "b", "c"]));
}
