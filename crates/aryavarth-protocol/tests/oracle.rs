//! The Redis protocol in another implementation: the crate `redis-protocol` reads our replies
//! as they were meant, and we read its commands as they were meant, in pieces of any size.
//!
//! `ORACLE_ROUNDS=1000000 cargo test -p aryavarth-protocol --test oracle` looks longer.

use aryavarth_protocol::{Command, Event, Limits, Reply, Session};
use redis_protocol::resp2::types::{OwnedFrame as Frame2, Resp2Frame};
use redis_protocol::resp3::types::{OwnedFrame as Frame3, VerbatimStringFormat};
use redis_protocol::{resp2, resp3};

/// A generator of Knuth's, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 ^ (self.0 >> 33)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % limit
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = match self.below(64) {
            0 => self.below(100_000),
            1..8 => 0,
            _ => self.below(40),
        };
        // Line ends and markers more often than chance has them.
        let some = b"\r\n$*+-:_,";
        (0..length)
            .map(|_| match self.below(3) {
                0 => some[self.below(some.len())],
                _ => u8::try_from(self.below(256)).expect("below 256"),
            })
            .collect()
    }

    fn text(&mut self) -> String {
        (0..self.below(20)).map(|_| ['a', 'Z', ' ', '\u{e9}', '7'][self.below(5)]).collect()
    }

    fn double(&mut self) -> f64 {
        let number = match self.below(4) {
            0 => f64::from(u32::try_from(self.below(1000)).expect("below 1000")) - 500.0,
            1 => f64::INFINITY,
            _ => f64::from_bits(self.next()),
        };
        if number.is_nan() { 0.1 } else { number }
    }

    /// A reply that the oracle takes as a key.
    fn scalar(&mut self) -> Reply {
        match self.below(9) {
            0 => Reply::Simple(self.text().into()),
            1 => Reply::error(self.text() + "\r\n\n" + &self.text()),
            2 => Reply::Integer(self.next().cast_signed()),
            3 => Reply::Boolean(self.below(2) == 0),
            4 => Reply::Double(self.double()),
            5 => Reply::BigNumber(self.next().to_string() + "0000000000"),
            6 => Reply::Verbatim(["txt", "mkd"][self.below(2)], self.bytes()),
            _ => Reply::bulk(self.bytes()),
        }
    }

    /// A key that no other of its map has: the oracle keeps the last of equal ones, or the first.
    fn key(&mut self, at: usize) -> Reply {
        match self.below(3) {
            0 => Reply::Integer(i64::try_from(at).expect("small")),
            1 => Reply::Simple(at.to_string().into()),
            _ => Reply::bulk([at.to_string().into_bytes(), self.bytes()].concat()),
        }
    }

    fn reply(&mut self, depth: usize) -> Reply {
        if depth == 0 {
            return self.scalar();
        }
        match self.below(12) {
            0 => Reply::Null,
            1 => Reply::NullArray,
            2 => Reply::Array(self.replies(depth - 1)),
            3 => Reply::Set((0..self.below(4)).map(|_| self.scalar()).collect()),
            4 => Reply::Push(self.replies(depth - 1)),
            5 => Reply::Map(
                (0..self.below(4)).map(|at| (self.key(at), self.reply(depth - 1))).collect(),
            ),
            6 => {
                let count = self.below(3);
                let attributes = (0..count).map(|at| (self.key(at), self.scalar())).collect();
                Reply::Attributed(attributes, Box::new(Reply::Array(self.replies(depth - 1))))
            }
            _ => self.scalar(),
        }
    }

    fn replies(&mut self, depth: usize) -> Vec<Reply> {
        (0..self.below(5)).map(|_| self.reply(depth)).collect()
    }
}

fn rounds() -> usize {
    let rounds = std::env::var("ORACLE_ROUNDS");
    rounds.map_or(5_000, |rounds| rounds.parse().expect("ORACLE_ROUNDS is a number"))
}

fn one_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(['\r', '\n'], " ")
}

/// The frame that a client of RESP3 should hear.
fn frame3(reply: &Reply) -> Frame3 {
    let attributes = None;
    let frames = |replies: &[Reply]| replies.iter().map(frame3).collect();
    match reply {
        Reply::Simple(text) => Frame3::SimpleString { data: text.as_bytes().into(), attributes },
        Reply::Error(text) => Frame3::SimpleError { data: one_line(text), attributes },
        Reply::Integer(data) => Frame3::Number { data: *data, attributes },
        Reply::Bulk(data) => Frame3::BlobString { data: data.clone(), attributes },
        Reply::Null | Reply::NullArray => Frame3::Null,
        Reply::Boolean(data) => Frame3::Boolean { data: *data, attributes },
        Reply::Double(data) => Frame3::Double { data: *data, attributes },
        Reply::BigNumber(text) => Frame3::BigNumber { data: text.as_bytes().into(), attributes },
        Reply::Verbatim(format, data) => {
            let format = match *format {
                "txt" => VerbatimStringFormat::Text,
                _ => VerbatimStringFormat::Markdown,
            };
            Frame3::VerbatimString { data: data.clone(), format, attributes }
        }
        Reply::Array(replies) => Frame3::Array { data: frames(replies), attributes },
        Reply::Push(replies) => Frame3::Push { data: frames(replies), attributes },
        Reply::Several(_) => unreachable!("several frames are generated one by one"),
        Reply::Set(replies) => {
            Frame3::Set { data: replies.iter().map(frame3).collect(), attributes }
        }
        Reply::Map(pairs) => {
            Frame3::Map { data: pairs.iter().map(frame_pair).collect(), attributes }
        }
        Reply::Attributed(pairs, reply) => match frame3(reply) {
            Frame3::Array { data, .. } => {
                let attributes = Some(pairs.iter().map(frame_pair).collect());
                Frame3::Array { data, attributes }
            }
            other => other,
        },
    }
}

fn frame_pair((key, value): &(Reply, Reply)) -> (Frame3, Frame3) {
    (frame3(key), frame3(value))
}

/// Whether this is the right reply for a client of RESP2.
fn is_frame2(reply: &Reply, frame: &Frame2) -> bool {
    let all = |replies: &[Reply], frames: &[Frame2]| {
        replies.len() == frames.len() && replies.iter().zip(frames).all(|(r, f)| is_frame2(r, f))
    };
    match (reply, frame) {
        (Reply::Simple(text), Frame2::SimpleString(bytes)) => text.as_bytes() == bytes,
        (Reply::Error(text), Frame2::Error(other)) => one_line(text) == *other,
        (Reply::Integer(number), Frame2::Integer(other)) => number == other,
        (Reply::Boolean(truth), Frame2::Integer(other)) => i64::from(*truth) == *other,
        (Reply::Bulk(bytes) | Reply::Verbatim(_, bytes), Frame2::BulkString(other)) => {
            bytes == other
        }
        (Reply::BigNumber(digits), Frame2::BulkString(other)) => digits.as_bytes() == other,
        (Reply::Double(number), Frame2::BulkString(other)) => {
            std::str::from_utf8(other).is_ok_and(|text| text.parse() == Ok(*number))
        }
        (Reply::Null | Reply::NullArray, Frame2::Null) => true,
        (
            Reply::Array(replies) | Reply::Set(replies) | Reply::Push(replies),
            Frame2::Array(frames),
        ) => all(replies, frames),
        (Reply::Map(pairs), Frame2::Array(frames)) => {
            let flat: Vec<_> = pairs.iter().flat_map(|(k, v)| [k.clone(), v.clone()]).collect();
            all(&flat, frames)
        }
        (Reply::Attributed(_, reply), frame) => is_frame2(reply, frame),
        _ => false,
    }
}

/// The reply that a client reads.
fn sent(reply: &Reply, version: u8) -> Vec<u8> {
    let mut session = Session::new(Limits::default());
    session.set_resp_version(version);
    session.reply_resp(reply, 0);
    session.output().to_vec()
}

#[test]
fn our_replies_are_understood() {
    let mut random = Random(1);
    for round in 0..rounds() {
        let reply = random.reply(3);
        let bytes = sent(&reply, 2);
        let shown = bytes.escape_ascii();
        let (frame, length) = resp2::decode::decode(&bytes).unwrap().expect("a whole frame");
        assert_eq!(length, bytes.len(), "round {round}: {shown}");
        assert!(is_frame2(&reply, &frame), "round {round}: {reply:?} as {frame:?}");

        let bytes = sent(&reply, 3);
        let shown = bytes.escape_ascii();
        let decoded = resp3::decode::complete::decode(&bytes);
        let (frame, length) = decoded.unwrap_or_else(|error| panic!("{error}: {shown}")).unwrap();
        assert_eq!(length, bytes.len(), "round {round}: {shown}");
        assert_eq!(frame, frame3(&reply), "round {round}: {shown}");
    }
}

#[test]
fn its_commands_are_understood_in_any_pieces() {
    let mut random = Random(2);
    for round in 0..rounds() / 10 {
        let mut bytes = Vec::new();
        let mut asked = Vec::new();
        for _ in 0..=random.below(8) {
            let args: Vec<_> = (0..=random.below(9)).map(|_| random.bytes()).collect();
            let frame = Frame2::Array(args.iter().cloned().map(Frame2::BulkString).collect());
            let start = bytes.len();
            bytes.resize(start + frame.encode_len(false), 0);
            resp2::encode::encode(&mut bytes[start..], &frame, false).unwrap();
            asked.push(Event::Command(Command::from_args(args)));
        }
        let some = 2 + random.below(3000);
        for piece in [bytes.len(), 1, some] {
            let mut session = Session::new(Limits::default());
            let mut heard = Vec::new();
            for piece in bytes.chunks(piece) {
                session.feed(piece);
                heard.extend(std::iter::from_fn(|| session.next_event()));
            }
            assert_eq!(heard, asked, "round {round}, in pieces of {piece}");
            assert!(!session.is_partial());
        }
    }
}
