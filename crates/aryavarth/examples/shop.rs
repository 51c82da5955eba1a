//! A small shop, as a program that leaves sled would be written: named spaces, an index, a
//! transaction with an error of its own, ranges from both ends, deadlines, batches, futures, and a
//! second process that reads beside the first.
//!
//! `cargo run --example shop --features async -- DIRECTORY`

#![expect(clippy::print_stdout, reason = "it shows its results")]

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aryavarth::{AsyncKvStore, Batch, KeyRange, KvReader, KvStore, KvsError, Result};

/// The reason why an order is refused, or the store's own error.
enum OrderError {
    SoldOut { left: u32 },
    Store(KvsError),
}

impl From<KvsError> for OrderError {
    fn from(error: KvsError) -> Self {
        OrderError::Store(error)
    }
}

struct Shop {
    articles: KvStore,
    orders: KvStore,
}

impl Shop {
    fn open(store: &KvStore) -> Result<Shop> {
        Ok(Shop { articles: store.named("articles")?, orders: store.named("orders")? })
    }

    /// Fills the shelves in one batch. An article is stored under its name, and once more behind its
    /// shelf: an index is a key with another prefix in the same batch.
    fn stock(&self, articles: &[(&str, &str, u32)]) -> Result<()> {
        let mut batch = Batch::new();
        for (name, shelf, left) in articles {
            batch.put(format!("name/{name}"), left.to_string());
            batch.put(format!("shelf/{shelf}/{name}"), "");
        }
        self.articles.write(&batch).map(drop)
    }

    /// The names on a shelf, by the index.
    fn on_shelf(&self, shelf: &str) -> Result<Vec<String>> {
        let prefix = format!("shelf/{shelf}/");
        let keys = self.articles.keys(KeyRange::prefix(prefix.as_bytes()));
        keys.map(|key| Ok(String::from_utf8_lossy(&key?[prefix.len()..]).into_owned())).collect()
    }

    /// Takes pieces from the shelf, all or none. An error leaves everything as it was.
    fn order(&self, name: &str, pieces: u32) -> Result<u32, OrderError> {
        let key = format!("name/{name}");
        self.articles.try_transact(&[key.as_bytes()], |transaction| {
            let left = transaction.read(key.as_bytes())?.unwrap_or_default();
            let left: u32 = String::from_utf8_lossy(&left).parse().unwrap_or(0);
            let rest = left.checked_sub(pieces).ok_or(OrderError::SoldOut { left })?;
            transaction.put(key.as_str(), rest.to_string());
            Ok(rest)
        })
    }

    /// Remembers an order for an hour, unless its number was taken.
    fn remember(&self, number: u32, text: &str) -> Result<bool> {
        let key = format!("{number:06}");
        let is_new = self.orders.insert_if_absent(key.as_bytes(), b"")?;
        if is_new {
            self.orders.put_for(key.as_bytes(), text.as_bytes(), Duration::from_secs(3600))?;
        }
        Ok(is_new)
    }

    /// The newest orders, newest first.
    fn newest(&self, count: usize) -> Result<Vec<String>> {
        let texts = self.orders.scan("000000"..="999999").rev().take(count);
        texts.map(|entry| Ok(String::from_utf8_lossy(&entry?.1).into_owned())).collect()
    }
}

/// Many tasks write at once and share the syncs.
async fn count_visits(store: AsyncKvStore) -> Result<u64> {
    let visits = (0..100).map(|visitor| {
        let store = store.clone();
        tokio::spawn(async move { store.put(format!("visitor/{visitor}"), "was here").await })
    });
    for visit in visits.collect::<Vec<_>>() {
        visit.await.expect("the task does not panic")?;
    }
    Ok(store.count().await?.keys)
}

/// The second process: reads the store as it is now, while the first has it open.
fn report(dir: &Path) -> Result<(), Box<dyn Error>> {
    let articles = KvReader::open(dir)?.named("articles")?.ok_or("the shop has not opened yet")?;
    for entry in articles.scan(KeyRange::prefix(b"name/")) {
        let (key, left) = entry?;
        println!("{}: {} left", String::from_utf8_lossy(&key), String::from_utf8_lossy(&left));
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let dir = args.next().ok_or("say in which directory")?;
    if args.next().is_some_and(|arg| arg == "report") {
        return report(dir.as_ref());
    }
    let store = KvStore::open(&dir)?;
    let shop = Shop::open(&store)?;
    shop.stock(&[("apple", "fruit", 10), ("pear", "fruit", 3), ("soap", "bath", 5)])?;
    println!("fruit: {:?}", shop.on_shelf("fruit")?);
    for (name, pieces) in [("apple", 4), ("pear", 4)] {
        match shop.order(name, pieces) {
            Ok(left) => println!("{name}: {left} left"),
            Err(OrderError::SoldOut { left }) => println!("{name}: only {left} left"),
            Err(OrderError::Store(error)) => return Err(error.into()),
        }
    }
    for number in 1..=3 {
        shop.remember(number, &format!("order {number}"))?;
    }
    println!("newest: {:?}", shop.newest(2)?);

    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let visits = AsyncKvStore::new(store.named("visits")?);
    println!("visits: {}", runtime.block_on(count_visits(visits))?);

    let second = Command::new(std::env::current_exe()?).arg(&dir).arg("report").status()?;
    assert!(second.success());
    store.close()?;
    Ok(())
}
