//! A command's usage as `COMMAND DOCS` tells it: from `key [EX seconds | PERSIST]` to a tree of
//! arguments, which prompts make their hints from.
//!
//! Words in capitals are said as they stand; others name a value. Brackets hold an optional part,
//! a bar stands between alternatives, and `[x ...]` after `x` says that it may come
//! several times.

use aryavarth_protocol::Reply;

use crate::commands::kit::spec::{Keys, Spec};

/// One argument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Argument {
    name: String,
    token: Option<String>,
    kind: Kind,
    is_optional: bool,
    is_multiple: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Said as it stands.
    #[default]
    Token,
    Value,
    /// All of them.
    Block(Vec<Argument>),
    /// One of them.
    OneOf(Vec<Argument>),
}

/// The arguments of a command, as `COMMAND DOCS` has them.
pub(super) fn arguments(spec: &Spec) -> Vec<Reply> {
    let spaced = spec.usage.replace('[', " [ ").replace(']', " ] ");
    let words: Vec<&str> = spaced.split_ascii_whitespace().collect();
    let has_keys = spec.keys != Keys::None;
    match alternatives(&words) {
        Argument { kind: Kind::Block(arguments), .. } => arguments,
        argument if argument.name.is_empty() => Vec::new(),
        argument => vec![argument],
    }
    .iter()
    .map(|argument| reply(argument, has_keys))
    .collect()
}

/// Alternatives, with bars between.
fn alternatives(words: &[&str]) -> Argument {
    let mut depth = 0;
    let choices: Vec<&[&str]> = words
        .split(|word| {
            depth += i32::from(*word == "[") - i32::from(*word == "]");
            depth == 0 && *word == "|"
        })
        .collect();
    if let [words] = choices[..] {
        return sequence(words);
    }
    let choices: Vec<Argument> = choices.into_iter().map(sequence).collect();
    let name = choices.iter().map(|choice| choice.name.as_str()).collect::<Vec<_>>().join("-or-");
    Argument { name, kind: Kind::OneOf(choices), ..Argument::default() }
}

/// Arguments one after another; a single one is itself.
fn sequence(mut words: &[&str]) -> Argument {
    let mut all: Vec<Argument> = Vec::new();
    while let [word, rest @ ..] = words {
        words = rest;
        if *word == "[" {
            let end = closing(words);
            let inner = &words[..end];
            words = words.get(end + 1..).unwrap_or_default();
            if inner.last() == Some(&"...") {
                repeat(&mut all, inner.len() - 1);
            } else {
                all.push(Argument { is_optional: true, ..alternatives(inner) });
            }
        } else if *word != "..." {
            all.push(word_argument(word));
        }
    }
    // A word in capitals and its value are one.
    if let [Argument { kind: Kind::Token, is_optional: false, .. }, _, ..] = &all[..] {
        let first = all.remove(0);
        let mut one = block(all);
        one.token = first.token;
        if one.kind != Kind::Value {
            one.name = first.name;
        }
        return one;
    }
    block(all)
}

fn block(mut all: Vec<Argument>) -> Argument {
    if all.len() == 1 && all[0].token.is_none() && !all[0].is_optional {
        return all.remove(0);
    }
    if all.len() == 1 && all[0].kind == Kind::Token {
        return all.remove(0);
    }
    let name = all.first().map(|first| first.name.clone()).unwrap_or_default();
    Argument { name, kind: Kind::Block(all), ..Argument::default() }
}

/// The place of the bracket that closes the first one.
fn closing(words: &[&str]) -> usize {
    let mut depth = 1;
    words
        .iter()
        .position(|word| {
            depth += i32::from(*word == "[") - i32::from(*word == "]");
            depth == 0
        })
        .unwrap_or(words.len())
}

/// Says of the last arguments, which are as many words, that they may come several times.
fn repeat(all: &mut Vec<Argument>, words: usize) {
    let at = all.len().saturating_sub(words);
    let last = all.split_off(at);
    if !last.is_empty() {
        all.push(Argument { is_multiple: true, ..block(last) });
    }
}

fn word_argument(word: &str) -> Argument {
    let name = word.to_ascii_lowercase();
    let is_token = name != word;
    let kind = if is_token { Kind::Token } else { Kind::Value };
    Argument { name, token: is_token.then(|| word.to_owned()), kind, ..Argument::default() }
}

fn reply(argument: &Argument, has_keys: bool) -> Reply {
    let is_key = has_keys && argument.kind == Kind::Value && argument.name.ends_with("key");
    let (kind, inner) = match &argument.kind {
        Kind::Token => ("pure-token", None),
        Kind::Value if is_key => ("key", None),
        Kind::Value => ("string", None),
        Kind::Block(inner) => ("block", Some(inner)),
        Kind::OneOf(inner) => ("oneof", Some(inner)),
    };
    let mut known = vec![
        (Reply::bulk("name"), Reply::bulk(argument.name.as_str())),
        (Reply::bulk("type"), Reply::bulk(kind)),
    ];
    if is_key {
        known.push((Reply::bulk("key_spec_index"), Reply::Integer(0)));
    }
    if let Some(token) = &argument.token {
        known.push((Reply::bulk("token"), Reply::bulk(token.as_str())));
    }
    let flags = [("optional", argument.is_optional), ("multiple", argument.is_multiple)];
    let flags: Vec<Reply> = flags
        .into_iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| Reply::Simple(name.into()))
        .collect();
    if !flags.is_empty() {
        known.push((Reply::bulk("flags"), Reply::Set(flags)));
    }
    if let Some(inner) = inner {
        let inner = inner.iter().map(|argument| reply(argument, has_keys));
        known.push((Reply::bulk("arguments"), Reply::Array(inner.collect())));
    }
    Reply::Map(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(argument: &Argument) -> String {
        let inner = |all: &[Argument]| all.iter().map(shown).collect::<Vec<_>>().join(" ");
        let text = match &argument.kind {
            Kind::Token => argument.token.clone().unwrap_or_default(),
            Kind::Value => match &argument.token {
                Some(token) => format!("{token}={}", argument.name),
                None => argument.name.clone(),
            },
            Kind::Block(all) => {
                format!("{}({})", argument.token.clone().unwrap_or_default(), inner(all))
            }
            Kind::OneOf(all) => format!("<{}>", inner(all)),
        };
        let optional = if argument.is_optional { "?" } else { "" };
        let multiple = if argument.is_multiple { "+" } else { "" };
        format!("{text}{optional}{multiple}")
    }

    #[test]
    fn a_usage_is_read_as_people_read_it() {
        for (usage, expected) in [
            ("key", "key"),
            ("key [key ...]", "key+"),
            ("key value [key value ...]", "(key value)+"),
            ("key [NX | XX] [GET]", "(key <NX XX>? GET?)"),
            ("[EX seconds | PX milliseconds | PERSIST]", "(<EX=seconds PX=milliseconds PERSIST>?)"),
            ("ON | OFF", "<ON OFF>"),
            ("[AUTH username password]", "(AUTH(username password)?)"),
        ] {
            let spaced = usage.replace('[', " [ ").replace(']', " ] ");
            let words: Vec<&str> = spaced.split_ascii_whitespace().collect();
            let text = shown(&alternatives(&words));
            assert_eq!(text, expected, "{usage}");
        }
    }
}
