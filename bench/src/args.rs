//! The command line: a command, then `--name value` pairs.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::outcome::BoxError;

/// The options of the command line.
pub(crate) struct Args {
    /// The first word.
    pub(crate) command: String,
    options: BTreeMap<String, String>,
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
        let command = words.next().unwrap_or_default();
        let mut options = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("what is `{word}`?"))?;
            let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Args { command, options })
    }

    /// Takes an option, or `default` if it was not given.
    pub(crate) fn take<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, String> {
        match self.options.remove(name) {
            None => Ok(default),
            Some(text) => text.parse().or(Err(format!("--{name} cannot be `{text}`"))),
        }
    }

    /// Refuses options that no command took.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let unknown = self.options.keys().next();
        unknown.map_or(Ok(()), |name| Err(format!("{} has no --{name}", self.command)))
    }
}

/// Those of `all` whose names are in a list with commas between them; all if the list is empty.
pub(crate) fn chosen<T>(
    list: &str,
    all: impl IntoIterator<Item = T> + Clone,
    name: impl Fn(&T) -> &str,
) -> Result<Vec<T>, BoxError> {
    if list.is_empty() {
        return Ok(all.into_iter().collect());
    }
    let find = |wanted: &str| {
        let found = all.clone().into_iter().find(|one| name(one) == wanted);
        found.ok_or_else(|| {
            let names: Vec<_> = all.clone().into_iter().map(|one| name(&one).to_owned()).collect();
            format!("`{wanted}` is not one of {}", names.join(",")).into()
        })
    };
    list.split(',').map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_taken_once_and_leftovers_refused() {
        let mut args = args("durable --rounds 3 --wrong 1").unwrap();
        assert_eq!(args.take("rounds", 9), Ok(3));
        assert_eq!(args.take("seconds", 2), Ok(2));
        assert_eq!(args.finish(), Err("durable has no --wrong".to_owned()));
        args.take("wrong", String::new()).unwrap();
        assert_eq!(args.finish(), Ok(()));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(args("durable 3").is_err());
        assert!(args("durable --rounds").is_err());
        assert!(args("durable --rounds many").unwrap().take("rounds", 9).is_err());
    }
}
