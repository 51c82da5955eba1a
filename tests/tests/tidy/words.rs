//! Headless words: `what`, `who` and their kin stand where a noun of the field would say more.
//!
//! They are counted in comments and pages, without code, per 10,000 words. An area is the sources
//! of a crate, its tests, or one page; each has a ceiling until it keeps the rule.

use std::collections::BTreeMap;

use aryavarth_tests::text_files;

use crate::assert_none;
use crate::ceilings::Ceilings;
use crate::sources::prose;

const HEADLESS: &[&str] = &["what", "who", "whoever", "nobody", "somebody"];

/// How many of 10,000 words may be headless.
const HEADLESS_MAX: usize = 30;

/// The area of a file: `crates/aryavarth/src`, `crates/aryavarth/tests`, `bench`, `docs/races.md`.
fn area_of(path: &str) -> String {
    let depth = match path.split_once('/') {
        Some(("crates", _)) => 3,
        Some(("docs", _)) => 2,
        _ => 1,
    };
    path.split('/').take(depth).collect::<Vec<_>>().join("/")
}

#[test]
fn sentences_have_a_noun_as_their_subject() {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut places: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for file in text_files() {
        if !["rs", "md"].contains(&file.extension()) {
            continue;
        }
        let prose = prose(&file).to_lowercase();
        let words = prose.split(|c: char| !c.is_ascii_alphanumeric() && c != '\'');
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let headless = words.iter().filter(|word| HEADLESS.contains(word)).count();
        let area = area_of(&file.path);
        let count = counts.entry(area.clone()).or_default();
        *count = (count.0 + headless, count.1 + words.len());
        places.entry(area).or_default().push((headless, file.path));
    }
    let ceilings = Ceilings::read();
    let mut offenders = Vec::new();
    for (area, (headless, words)) in counts {
        let figure = (headless * 10_000).div_ceil(words.max(1));
        let ceiling = ceilings.of("words", &area, HEADLESS_MAX);
        // One of them in a short area is no habit.
        if figure > ceiling && headless > 1 {
            offenders.push(format!("{area}: {figure}, at most {ceiling}"));
            let mut files = places.remove(&area).unwrap_or_default();
            files.sort_by(|a, b| b.cmp(a));
            let most = files.iter().take(5).filter(|(headless, _)| *headless > 0);
            offenders.extend(most.map(|(headless, path)| format!("  {path}: {headless}")));
        }
        Ceilings::lower("words", &area, figure, HEADLESS_MAX);
    }
    let rule = format!("of 10,000 words in comments and pages, few are {}", HEADLESS.join(", "));
    assert_none(&offenders, &rule);
}
