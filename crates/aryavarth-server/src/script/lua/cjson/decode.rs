//! JSON to values: one token at a time, with lua-cjson's words for its errors.

use mlua::{LightUserData, Lua, Value};

use super::super::control::Control;
use super::super::{numbers, problem};

/// A token of JSON, and its place.
enum Token {
    Sign(u8),
    String(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    End,
    Wrong(&'static str),
}

impl Token {
    fn name(&self) -> &'static str {
        match self {
            Token::Sign(b'{') => "T_OBJ_BEGIN",
            Token::Sign(b'}') => "T_OBJ_END",
            Token::Sign(b'[') => "T_ARR_BEGIN",
            Token::Sign(b']') => "T_ARR_END",
            Token::Sign(b':') => "T_COLON",
            Token::Sign(_) => "T_COMMA",
            Token::String(_) => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Boolean(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::End => "T_END",
            Token::Wrong(text) => text,
        }
    }
}

/// Reads JSON.
pub(super) struct Decoder<'a> {
    lua: &'a Lua,
    control: &'a Control,
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(lua: &'a Lua, control: &'a Control, text: &'a [u8]) -> Self {
        Decoder { lua, control, text, at: 0, depth: 0 }
    }

    pub(super) fn document(&mut self) -> mlua::Result<Value> {
        let first = self.token();
        let value = self.value(first)?;
        match self.token() {
            (Token::End, _) => Ok(value),
            found => Err(self.unexpected("the end", &found)),
        }
    }

    fn unexpected(&self, wanted: &str, (found, at): &(Token, usize)) -> mlua::Error {
        let (found, at) = (found.name(), at + 1);
        let text = format!("Expected {wanted} but found {found} at character {at}");
        problem::complain(self.lua, text)
    }

    fn value(&mut self, token: (Token, usize)) -> mlua::Result<Value> {
        self.control.step(self.lua, 1)?;
        match token.0 {
            Token::String(text) => Ok(Value::String(self.lua.create_string(text)?)),
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Boolean(is) => Ok(Value::Boolean(is)),
            Token::Null => Ok(Value::LightUserData(LightUserData(std::ptr::null_mut()))),
            Token::Sign(b'{') => self.object(),
            Token::Sign(b'[') => self.array(),
            _ => Err(self.unexpected("value", &token)),
        }
    }

    fn descend(&mut self) -> mlua::Result<()> {
        self.depth += 1;
        if self.depth <= self.control.json.decode_depth.get() {
            return Ok(());
        }
        let (depth, at) = (self.depth, self.at);
        let text = format!("Found too many nested data structures ({depth}) at character {at}");
        Err(problem::complain(self.lua, text))
    }

    fn object(&mut self) -> mlua::Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.token();
        if !matches!(token.0, Token::Sign(b'}')) {
            loop {
                let Token::String(key) = &token.0 else {
                    return Err(self.unexpected("object key string", &token));
                };
                let key = self.lua.create_string(key)?;
                let colon = self.token();
                if !matches!(colon.0, Token::Sign(b':')) {
                    return Err(self.unexpected("colon", &colon));
                }
                let next = self.token();
                table.raw_set(key, self.value(next)?)?;
                match self.token() {
                    (Token::Sign(b'}'), _) => break,
                    (Token::Sign(b','), _) => token = self.token(),
                    found => return Err(self.unexpected("comma or object end", &found)),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn array(&mut self) -> mlua::Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.token();
        if !matches!(token.0, Token::Sign(b']')) {
            for at in 1_i64.. {
                table.raw_set(at, self.value(token)?)?;
                match self.token() {
                    (Token::Sign(b']'), _) => break,
                    (Token::Sign(b','), _) => token = self.token(),
                    found => return Err(self.unexpected("comma or array end", &found)),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn token(&mut self) -> (Token, usize) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        let at = self.at;
        let rest = &self.text[at..];
        let Some(byte) = rest.first().copied() else { return (Token::End, at) };
        let word = |word: &[u8]| rest.starts_with(word);
        let (token, length) = match byte {
            b'{' | b'}' | b'[' | b']' | b':' | b',' => (Token::Sign(byte), 1),
            b'"' => return self.string(at),
            _ if word(b"true") => (Token::Boolean(true), 4),
            _ if word(b"false") => (Token::Boolean(false), 5),
            _ if word(b"null") => (Token::Null, 4),
            b'-' | b'0'..=b'9' | b'i' | b'I' | b'n' | b'N' => {
                match numbers::prefix(rest, self.control.json.decode_invalid.get()) {
                    Some((number, length)) => (Token::Number(number), length),
                    None if matches!(byte, b'-' | b'0'..=b'9') => {
                        (Token::Wrong("invalid number"), 0)
                    }
                    None => (Token::Wrong("invalid token"), 0),
                }
            }
            _ => (Token::Wrong("invalid token"), 0),
        };
        self.at += length;
        (token, at)
    }

    fn string(&mut self, start: usize) -> (Token, usize) {
        let mut text = Vec::new();
        self.at += 1;
        loop {
            // As the library, for which a zero ends its text.
            let Some(byte) = self.text.get(self.at).copied().filter(|byte| *byte != 0) else {
                return (Token::Wrong("unexpected end of string"), self.at);
            };
            self.at += 1;
            match byte {
                b'"' => return (Token::String(text), start),
                b'\\' => {
                    let escape = self.text.get(self.at).copied().unwrap_or(0);
                    let plain = match escape {
                        b'"' | b'\\' | b'/' => escape,
                        b'b' => 0x08,
                        b'f' => 0x0c,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'u' => {
                            if self.unicode(&mut text).is_none() {
                                let why = "invalid unicode escape code";
                                return (Token::Wrong(why), self.at - 1);
                            }
                            continue;
                        }
                        _ => return (Token::Wrong("invalid escape code"), self.at - 1),
                    };
                    text.push(plain);
                    self.at += 1;
                }
                other => text.push(other),
            }
        }
    }

    /// Four digits at a place, as one unit of UTF-16.
    fn unit(&self, at: usize) -> Option<u32> {
        let digits = std::str::from_utf8(self.text.get(at..at + 4)?).ok()?;
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
        u32::from_str_radix(digits, 16).ok()
    }

    /// Reads an escape `u1234`, or a pair of them, and appends it as UTF-8.
    fn unicode(&mut self, text: &mut Vec<u8>) -> Option<()> {
        let mut code = self.unit(self.at + 1)?;
        let mut length = 5;
        if (0xd800..0xe000).contains(&code) {
            if code >= 0xdc00 || self.text.get(self.at + 5..self.at + 7) != Some(b"\\u") {
                return None;
            }
            let low = self.unit(self.at + 7).filter(|low| (0xdc00..0xe000).contains(low))?;
            code = 0x1_0000 + ((code & 0x3ff) << 10) + (low & 0x3ff);
            length = 11;
        }
        let letter = char::from_u32(code)?;
        text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        self.at += length;
        Some(())
    }
}
