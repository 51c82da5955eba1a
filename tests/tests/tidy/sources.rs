//! Sources as text: lines without comments, comments without code, functions, and the modules that a
//! file imports.
//!
//! All of it reads the layout of `cargo fmt`, line by line, and knows no grammar.

use aryavarth_tests::{TextFile, text_files};

/// Every Rust source of the workspace.
pub(crate) fn rust_sources() -> Vec<TextFile> {
    text_files().into_iter().filter(|file| file.extension() == "rs").collect()
}

/// Lines of code, without comments.
pub(crate) fn statements(file: &TextFile) -> impl Iterator<Item = (usize, &str)> {
    file.code_lines().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The identifiers that follow each `marker` in `line`.
pub(crate) fn names_after<'a>(line: &'a str, marker: &str) -> Vec<&'a str> {
    let tails = line.match_indices(marker).map(|(at, _)| (at, &line[at + marker.len()..]));
    let whole = tails.filter(|(at, _)| !line[..*at].ends_with(is_name));
    whole.map(|(_, tail)| name_at(tail)).collect()
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn name_at(text: &str) -> &str {
    &text[..text.find(|c| !is_name(c)).unwrap_or(text.len())]
}

/// A path in a file's code, from the root of its crate: the module or item that it leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// The line where the path begins.
    pub(crate) line: usize,
    /// Its parts, without `crate` and `super`.
    pub(crate) parts: Vec<String>,
}

/// The paths that begin with `crate::` or `super::` in the code of a file below `src`, which is the
/// folder of a crate's sources.
pub(crate) fn imports(file: &TextFile, src: &str) -> Vec<Import> {
    let path = file.path.strip_prefix(src).expect("a source of this crate");
    let mut module: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    module.retain(|part| !["mod", "lib", "main"].contains(part));

    // One text, so that a path may go on in the next line. The lines' places are kept.
    let mut code = String::new();
    let mut starts = Vec::new();
    for (number, line) in statements(file) {
        starts.push((code.len(), number));
        code.push_str(line.trim_start());
    }
    let line_at = |at: usize| starts[starts.partition_point(|(start, _)| *start <= at) - 1].1;

    let mut found = Vec::new();
    for marker in ["crate::", "super::"] {
        for (at, _) in code.match_indices(marker) {
            // The second `super` of a chain belongs to the first.
            if code[..at].ends_with(is_name) || code[..at].ends_with("super::") {
                continue;
            }
            let mut rest = &code[at..];
            let mut base: &[&str] = if marker == "crate::" { &[] } else { &module };
            rest = rest.strip_prefix("crate::").unwrap_or(rest);
            while let Some(tail) = rest.strip_prefix("super::") {
                base = base.split_last().map_or(&[], |(_, parents)| parents);
                rest = tail;
            }
            for branch in branches(rest) {
                let base = base.iter().map(|part| (*part).to_owned());
                found.push(Import { line: line_at(at), parts: base.chain(branch).collect() });
            }
        }
    }
    found
}

/// The paths of a tree such as `a::{b, c::D}`.
fn branches(text: &str) -> Vec<Vec<String>> {
    let Some(group) = text.strip_prefix('{') else {
        let name = name_at(text);
        let rest = &text[name.len()..];
        let Some(rest) = rest.strip_prefix("::") else { return vec![vec![name.to_owned()]] };
        let mut below = branches(rest);
        for parts in &mut below {
            parts.insert(0, name.to_owned());
        }
        return below;
    };
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        let is_end = depth == 0 && (c == ',' || c == '}');
        if is_end && !group[start..at].trim().is_empty() {
            found.extend(branches(group[start..at].trim()));
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = at + 1,
            _ => {}
        }
    }
    found
}

/// A function of a source: its name, its first line and how many lines it has.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// The functions with a body, those of tests as well. A body ends at the first brace that stands
/// below the beginning of its function.
pub(crate) fn functions(text: &str) -> Vec<Function<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = names_after(code, "fn ").first().copied() else { continue };
        let before = code.split("fn ").next().unwrap_or_default();
        let is_definition = before.chars().all(|c| c.is_ascii_lowercase() || " ()\":_".contains(c))
            && !name.is_empty()
            && !code.starts_with("//");
        let last = lines[first..].iter().position(|line| ends_signature(line));
        let opens = last.is_some_and(|last| lines[first + last].ends_with('{'));
        if !is_definition || !opens {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let count = lines[first..].iter().position(|line| *line == end).expect("a function ends");
        found.push(Function { name, line: first + 1, lines: count + 1 });
    }
    found
}

fn ends_signature(line: &str) -> bool {
    line.ends_with(['{', '}', ';'])
}

/// The comments of a Rust source, or the prose of a page: text without words in backticks and without
/// blocks of code.
pub(crate) fn prose(file: &TextFile) -> String {
    let is_page = file.extension() == "md";
    let mut prose = String::new();
    let mut is_block = false;
    for line in file.text.lines() {
        let line = line.trim_start();
        let comment = line.strip_prefix("//").map(|line| line.trim_start_matches(['/', '!']));
        let Some(line) = (if is_page { Some(line) } else { comment }) else {
            is_block = false;
            continue;
        };
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            line.split('`').step_by(2).for_each(|part| {
                prose.push_str(part);
                prose.push(' ');
            });
        }
    }
    prose
}

#[test]
fn the_paths_of_a_tree_are_all_found() {
    let text = "//! A file.\n\nuse crate::{a, b::{C, d::E}};\nuse super::super::f::G;\n\
                fn h() -> crate::i::J {\n    super::k()\n}\n";
    let file = TextFile { path: "src/x/y.rs".to_owned(), text: text.to_owned() };
    let paths: Vec<(usize, String)> = imports(&file, "src/")
        .into_iter()
        .map(|import| (import.line, import.parts.join("::")))
        .collect();
    let expected = [(3, "a"), (3, "b::C"), (3, "b::d::E"), (5, "i::J"), (4, "f::G"), (6, "x::k")];
    assert_eq!(paths, expected.map(|(line, path)| (line, path.to_owned())));
}

#[test]
fn a_function_is_counted_from_its_name_to_its_brace() {
    let text = "trait A {\n    fn a(&self);\n    fn b() {}\n    fn c(\n        d: u8,\n    ) {\n        \
                e();\n    }\n}\n// fn f() {\npub(crate) async fn g<T>(t: T)\nwhere\n    T: Fn(),\n{\n}\n";
    let found: Vec<_> =
        functions(text).into_iter().map(|one| (one.name, one.line, one.lines)).collect();
    assert_eq!(found, [("c", 4, 5), ("g", 11, 5)]);
}

#[test]
fn code_is_no_prose() {
    let text =
        "/// What `who` is.\n/// ```\n/// nobody();\n/// ```\nlet what = 1; // who\n//! End.\n";
    let file = TextFile { path: "a.rs".to_owned(), text: text.to_owned() };
    assert_eq!(prose(&file).split_whitespace().collect::<Vec<_>>().join(" "), "What is. End.");
}
