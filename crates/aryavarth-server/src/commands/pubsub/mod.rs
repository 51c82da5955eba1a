//! SUBSCRIBE, PUBLISH and their kin: messages to other clients.

use aryavarth_protocol::Reply;

use crate::channels::{Full, Kind, NAME_BYTES_MAX, NAMES_MAX, OWN_PATTERNS_MAX, Publication};
use crate::commands::kit::args::Args;
use crate::commands::kit::context::Context;
use crate::commands::kit::failure::{Failure, refused};
use crate::commands::kit::help::HELP;
use crate::commands::kit::spec::{Outcome, Run, Spec};
use crate::glob::Glob;

/// A change of subscriptions is no part of a transaction: its confirmations would stand among other
/// replies, where clients do not look for them.
const LISTEN: &str = "pubsub noscript loading stale SUBSCRIBED LISTENS";

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("psubscribe", -2, "pattern [pattern ...]", Run::Context(psubscribe))
        .flags(LISTEN)
        .since("2.0.0")
        .cost("O(N) where N is the number of patterns the client is already subscribed to.")
        .says("Listens for messages published to channels matching the given patterns"),
    Spec::new("publish", 3, "channel message", Run::Context(publish))
        .flags("pubsub loading stale fast PUBLISHES")
        .since("2.0.0")
        .cost(
            "O(N+M) where N is the number of clients subscribed to the receiving channel and M is \
             the total number of subscribed patterns (by any client).",
        )
        .says("Posts a message to a channel"),
    Spec::new("pubsub", -2, "subcommand", Run::Container(SUBS))
        .since("2.8.0")
        .cost("Depends on subcommand.")
        .says("A container for Pub/Sub commands"),
    Spec::new("punsubscribe", -1, "[pattern [pattern ...]]", Run::Context(punsubscribe))
        .flags(LISTEN)
        .since("2.0.0")
        .cost("O(N+M) where N is the number of patterns the client is already subscribed and M is the number of total patterns subscribed in the system (by any client).")
        .says("Stops listening for messages posted to channels matching the given patterns"),
    Spec::new("spublish", 3, "shardchannel message", Run::Context(spublish))
        .flags("pubsub loading stale fast PUBLISHES")
        .key("not_key")
        .since("7.0.0")
        .cost("O(N) where N is the number of clients subscribed to the receiving shard channel.")
        .says("Posts a message to a shard channel"),
    Spec::new("ssubscribe", -2, "shardchannel [shardchannel ...]", Run::Context(ssubscribe))
        .flags(LISTEN)
        .keys(1, -1, 1, "not_key")
        .since("7.0.0")
        .cost("O(N) where N is the number of shard channels to subscribe to.")
        .says("Listens for messages published to the given shard channels"),
    Spec::new("subscribe", -2, "channel [channel ...]", Run::Context(subscribe))
        .flags(LISTEN)
        .since("2.0.0")
        .cost("O(N) where N is the number of channels to subscribe to.")
        .says("Listens for messages published to the given channels"),
    Spec::new("sunsubscribe", -1, "[shardchannel [shardchannel ...]]", Run::Context(sunsubscribe))
        .flags(LISTEN)
        .keys(1, -1, 1, "not_key")
        .since("7.0.0")
        .cost("O(N) where N is the number of clients already subscribed to a shard channel.")
        .says("Stops listening for messages posted to the given shard channels"),
    Spec::new("unsubscribe", -1, "[channel [channel ...]]", Run::Context(unsubscribe))
        .flags(LISTEN)
        .since("2.0.0")
        .cost("O(N) where N is the number of clients already subscribed to a channel.")
        .says("Stops listening for messages posted to the given channels"),
];

const SUBS: &[Spec] = &[
    Spec::new("channels", -2, "[pattern]", Run::Context(channels))
        .flags("pubsub loading stale WAITS")
        .since("2.8.0")
        .cost(
            "O(N) where N is the number of active channels, and assuming constant time pattern \
             matching (relatively short channels and patterns)",
        )
        .says("Lists active channels"),
    HELP.since("6.2.0"),
    Spec::new("numpat", 2, "", Run::Context(|context, _| {
            Ok(count(context.server.clients().channels.counts().patterns))
        }))
        .flags("pubsub loading stale")
        .since("2.8.0")
        .says("Gets the count of unique patterns pattern subscriptions"),
    Spec::new("numsub", -2, "[channel [channel ...]]", Run::Context(numsub))
        .flags("pubsub loading stale WAITS")
        .since("2.8.0")
        .cost("O(N) for the NUMSUB subcommand, where N is the number of requested channels")
        .says("Gets the count of subscribers for channels"),
    Spec::new("shardchannels", -2, "[pattern]", Run::Context(shard_channels))
        .flags("pubsub loading stale WAITS")
        .since("7.0.0")
        .cost(
            "O(N) where N is the number of active shard channels, and assuming constant time \
             pattern matching (relatively short shard channels).",
        )
        .says("Lists active shard channels"),
    Spec::new("shardnumsub", -2, "[shardchannel [shardchannel ...]]", Run::Context(shard_numsub))
        .flags("pubsub loading stale WAITS")
        .since("7.0.0")
        .cost("O(N) for the SHARDNUMSUB subcommand, where N is the number of requested shard channels")
        .says("Gets the count of subscribers for shard channels"),
];

fn count(number: usize) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The error that a full table or memory is to a client.
fn full(full: Full) -> Failure {
    let text = match full {
        Full::Name => {
            format!("ERR the name of a channel or pattern is at most {NAME_BYTES_MAX} bytes long")
        }
        Full::Names => format!(
            "ERR a client may subscribe to {NAMES_MAX} names of a kind and {OWN_PATTERNS_MAX} patterns; \
             nothing was subscribed"
        ),
        Full::AllNames => {
            "ERR the subscriptions of all clients take all the memory that they may; \
                           nothing was subscribed"
                .to_owned()
        }
        Full::AllPatterns => {
            "ERR the patterns of all clients are as long as they may be; nothing was \
                              subscribed; subscribe to channels instead"
                .to_owned()
        }
        Full::Messages => {
            "ERR messages that wait for slow subscribers leave no room; it was sent to \
                           no client; try again"
                .to_owned()
        }
        Full::Message => {
            "ERR the message is larger than the memory for messages; it was sent to no \
                          client"
                .to_owned()
        }
    };
    Failure::Refused(text.into_bytes().into())
}

/// The confirmation of one subscription or its end.
fn confirmation(word: &str, name: Reply, left: usize) -> Reply {
    Reply::Push(vec![Reply::bulk(word), name, count(left)])
}

/// The names of a call.
fn names<'a>(args: &Args<'a>) -> Result<Vec<&'a [u8]>, Failure> {
    // Each has a confirmation, which takes more memory than the name.
    if args.len() > NAMES_MAX { Err(full(Full::Names)) } else { Ok(args.from(1).collect()) }
}

fn listen(context: &mut Context<'_>, args: &Args<'_>, kind: Kind, word: &str) -> Outcome {
    let names = names(args)?;
    let clients = context.server.clients();
    let subscriber = clients.subscriber(context.entry);
    let confirmed = clients.channels.subscribe(subscriber, kind, &names).map_err(full)?;
    end(context);
    let replies = names.iter().zip(confirmed);
    let replies = replies.map(|(name, left)| confirmation(word, Reply::bulk(*name), left));
    Ok(Reply::Several(replies.collect()))
}

fn stop_listening(context: &mut Context<'_>, args: &Args<'_>, kind: Kind, word: &str) -> Outcome {
    let names = names(args)?;
    let clients = context.server.clients();
    let subscriber = clients.subscriber(context.entry);
    let mut replies = Vec::new();
    if names.is_empty() {
        for (name, left) in clients.channels.unsubscribe_all(subscriber, kind) {
            replies.push(confirmation(word, Reply::bulk(&*name), left));
        }
        if replies.is_empty() {
            let left = subscriber.counts().confirmed(kind);
            replies.push(confirmation(word, Reply::Null, left));
        }
    } else {
        for name in names {
            let left = clients.channels.unsubscribe(subscriber, kind, name);
            replies.push(confirmation(word, Reply::bulk(name), left));
        }
    }
    subscriber.inbox.mark();
    end(context);
    Ok(Reply::Several(replies))
}

/// Takes note of the subscriptions after a change.
fn end(context: &mut Context<'_>) {
    let subscriber = context.server.clients().subscriber(context.entry);
    context.settings.subscriptions = subscriber.counts();
}

fn subscribe(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    listen(context, args, Kind::Channel, "subscribe")
}

fn psubscribe(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    listen(context, args, Kind::Pattern, "psubscribe")
}

fn ssubscribe(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    listen(context, args, Kind::Shard, "ssubscribe")
}

fn unsubscribe(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    stop_listening(context, args, Kind::Channel, "unsubscribe")
}

fn punsubscribe(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    stop_listening(context, args, Kind::Pattern, "punsubscribe")
}

fn sunsubscribe(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    stop_listening(context, args, Kind::Shard, "sunsubscribe")
}

fn publish(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    deliver(context, args, Kind::Channel)
}

fn spublish(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    deliver(context, args, Kind::Shard)
}

fn deliver(context: &mut Context<'_>, args: &Args<'_>, kind: Kind) -> Outcome {
    let publication = Publication {
        channel: args.get(1),
        message: args.get(2),
        position: context.settings.seen,
        level: context.settings.level(),
    };
    if publication.channel.len() > NAME_BYTES_MAX {
        return Err(full(Full::Name));
    }
    let receivers = context.server.clients().publish(kind, &publication).map_err(full)?;
    Ok(count(receivers))
}

fn list(context: &mut Context<'_>, args: &Args<'_>, kind: Kind) -> Outcome {
    if args.len() > 3 {
        return refused(format!(
            "ERR unknown subcommand or wrong number of arguments for '{}'. Try PUBSUB HELP.",
            String::from_utf8_lossy(args.get(1))
        ));
    }
    let pattern = (args.len() == 3).then(|| Glob::new(args.get(2)));
    let names = context.server.clients().channels.names(kind, pattern.as_ref());
    Ok(Reply::Array(names.iter().map(|name| Reply::bulk(&**name)).collect()))
}

fn channels(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    list(context, args, Kind::Channel)
}

fn shard_channels(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    list(context, args, Kind::Shard)
}

fn count_each(context: &mut Context<'_>, args: &Args<'_>, kind: Kind) -> Outcome {
    if args.len() > NAMES_MAX {
        return Err(full(Full::Names));
    }
    let channels = &context.server.clients().channels;
    let replies = args
        .from(2)
        .flat_map(|name| [Reply::bulk(name), count(channels.subscribers_of(kind, name))]);
    Ok(Reply::Array(replies.collect()))
}

fn numsub(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    count_each(context, args, Kind::Channel)
}

fn shard_numsub(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    count_each(context, args, Kind::Shard)
}
