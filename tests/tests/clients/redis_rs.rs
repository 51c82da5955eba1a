//! redis-rs: the blocking client, both protocols, a database of the address, atomic pipelines.

use std::collections::BTreeSet;

use redis::{Client, Commands, ConnectionLike, ExistenceCheck, SetExpiry, SetOptions, Value};

use crate::Subject;

#[test]
fn redis_rs_works() {
    let Some(subject) = Subject::start() else { return };
    for protocol in ["resp2", "resp3"] {
        let addr = subject.server.addr();
        let client = Client::open(format!("redis://{addr}/11?protocol={protocol}")).unwrap();
        let mut connection = client.get_connection().unwrap();
        assert_eq!(connection.get_db(), 11);
        told(&mut connection, &client).unwrap_or_else(|error| panic!("{protocol}: {error}"));
    }
}

fn told(connection: &mut redis::Connection, client: &Client) -> redis::RedisResult<()> {
    redis::cmd("FLUSHDB").exec(connection)?;
    connection.set::<_, _, ()>("k", "v")?;
    assert_eq!(connection.get::<_, Option<String>>("k")?.as_deref(), Some("v"));
    assert_eq!(connection.get::<_, Option<String>>("absent")?, None);
    let options = SetOptions::default()
        .conditional_set(ExistenceCheck::NX)
        .with_expiration(SetExpiry::EX(100));
    assert!(connection.set_options::<_, _, bool>("t", "v", options.clone())?);
    assert_eq!(connection.set_options::<_, _, Value>("t", "w", options)?, Value::Nil);
    assert!((90..=100).contains(&connection.ttl::<_, i64>("t")?));
    let binary: Vec<u8> = (0..=255).collect();
    connection.set::<_, _, ()>(&binary, &binary)?;
    assert_eq!(connection.get::<_, Vec<u8>>(&binary)?, binary);
    connection.mset::<_, _, ()>(&[("a", 1), ("b", 2)])?;
    let found: (i64, Option<i64>, i64) = connection.mget(&["a", "absent", "b"])?;
    assert_eq!(found, (1, None, 2));

    let pipeline = redis::pipe().set("n", 1).ignore().incr("n", 41).get("n").to_owned();
    let (added, read): (i64, i64) = pipeline.clone().query(connection)?;
    assert_eq!((added, read), (42, 42));
    let (added, read): (i64, i64) = pipeline.clone().atomic().query(connection)?;
    assert_eq!((added, read), (42, 42));

    // Another client changes the key once between WATCH and EXEC, so it takes two attempts.
    let mut attempts = 0;
    let (sum,): (i64,) = redis::transaction(connection, &["n"], |connection, pipe| {
        let before: i64 = connection.get("n")?;
        attempts += 1;
        if attempts == 1 {
            client.get_connection()?.set::<_, _, ()>("n", 100)?;
        }
        pipe.set("n", before + 1).ignore().get("n").query(connection)
    })?;
    assert_eq!((sum, attempts), (101, 2));

    for number in 0..100 {
        connection.set::<_, _, ()>(format!("user:{number}"), number)?;
    }
    let found: Result<BTreeSet<String>, _> =
        connection.scan_match::<_, String>("user:*")?.collect();
    assert_eq!(found?.len(), 100);
    let error = connection.incr::<_, _, i64>("k", 1).unwrap_err();
    assert!(error.to_string().contains("not an integer"), "{error}");
    assert!(connection.check_connection());
    Ok(())
}
