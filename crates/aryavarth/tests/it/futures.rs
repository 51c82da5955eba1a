//! `AsyncKvStore` under an executor of a few lines: syncs are shared, cold reads and panics arrive,
//! and a future that is dropped leaves nothing half done.

use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use aryavarth::fs::SimFs;
use aryavarth::{AsyncKvStore, Batch, Deadline, KeyRange, KvStore, KvsError, Options, Result};

/// Wakes the thread that polls.
#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

/// Polls all futures whenever one is woken, until all are ready.
fn run_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut context = Context::from_waker(&waker);
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    loop {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(ready) = Pin::as_mut(future).poll(&mut context)
            {
                *result = Some(ready);
            }
        }
        if results.iter().all(Option::is_some) {
            return results.into_iter().flatten().collect();
        }
        let mut rung = bell.0.lock().unwrap();
        while !*rung {
            rung = bell.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    run_all(vec![future]).pop().unwrap()
}

#[test]
fn tasks_of_one_thread_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let store = AsyncKvStore::new(KvStore::open(dir.path()).unwrap());
    let before = store.store().stats().syncs;
    let puts = (0..200_u32).map(|number| store.put(number.to_le_bytes(), "value")).collect();
    run_all(puts).into_iter().for_each(Result::unwrap);
    let syncs = store.store().stats().syncs - before;
    assert!(syncs < 100, "{syncs} syncs for 200 writes that waited together");
    assert_eq!(run(store.count()).unwrap().keys, 200);
}

#[test]
fn each_call_says_what_the_blocking_one_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = AsyncKvStore::new(KvStore::open(dir.path()).unwrap());
    run(async {
        store.write(Batch::new().put("a", "1").put("b", "2")).await?;
        assert_eq!(store.read("a").await?, Some(b"1".to_vec()));
        assert!(store.contains("b").await? && !store.contains("c").await?);
        let page = store.scan(KeyRange::all(), 1).await?;
        assert!(!page.done && page.entries.len() == 1);
        let sum = store.transact(&[b"a", b"b"], |transaction| {
            let sum: i32 = [b"a", b"b"]
                .map(|key| transaction.read(key).unwrap().unwrap()[0])
                .map(|digit| i32::from(digit - b'0'))
                .iter()
                .sum();
            transaction.put("sum", sum.to_string());
            Ok(sum)
        });
        assert_eq!(sum.await?, 3);
        assert!(store.delete("sum").await? && !store.delete("sum").await?);
        let refused = store.transact(&[], |_| Err::<(), _>(KvsError::KeyNotFound)).await;
        assert!(matches!(refused, Err(KvsError::KeyNotFound)));
        store.put_for("soon", "", std::time::Duration::ZERO).await?;
        assert!(!store.contains("soon").await?);
        let noon = store.store().now().wall_ms + 60_000;
        store.put_until("noon", "", noon).await?;
        assert_eq!(store.deadline("noon").await?, Some(Deadline::Wall(noon)));
        store.put_with_deadline("noon", "", Deadline::Never).await?;
        assert_eq!(store.deadline("noon").await?, Some(Deadline::Never));
        assert_eq!(store.deadline("c").await?, None);
        store.flush().await
    })
    .unwrap();
}

/// The simulated disk never tells whether a record is at hand once it is asked to be slow, so each
/// read goes through a thread.
#[test]
fn a_read_that_would_wait_for_the_disk_is_made_by_a_thread() {
    let fs = SimFs::new();
    let options = Options { fs: Arc::new(fs.clone()), ..Options::default() };
    let store = AsyncKvStore::new(KvStore::open_with(Path::new("/db"), options).unwrap());
    run(store.put("k", "v")).unwrap();
    fs.fail_next(aryavarth::fs::Site::RecordReadNow, aryavarth::fs::Fault::Short);
    assert_eq!(run(store.read("k")).unwrap(), Some(b"v".to_vec()));
}

#[test]
fn a_panic_of_a_closure_arrives_and_the_threads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = AsyncKvStore::new(KvStore::open(dir.path()).unwrap());
    for _ in 0..10 {
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(store.transact(&[], |_| -> Result<()> { panic!("of the closure") }))
        }));
        assert!(panics.is_err());
    }
    run(store.put("k", "v")).unwrap();
}

#[test]
fn a_future_that_is_dropped_leaves_its_write_done_or_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let store = AsyncKvStore::new(KvStore::open(dir.path()).unwrap());
    for number in 0..50_u32 {
        let keys = [number, number + 1000].map(u32::to_le_bytes);
        let batch = Batch::from([(keys[0], "1"), (keys[1], "2")]);
        let mut write = pin!(store.write(&batch));
        let polled = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "it waits for a thread or for the sync");
    }
    run(store.put("last", "")).unwrap();
    run(store.flush()).unwrap();
    let blocking = store.store();
    for number in 0..50_u32 {
        let halves =
            [number, number + 1000].map(|key| blocking.contains(&key.to_le_bytes()).unwrap());
        assert_eq!(halves[0], halves[1]);
    }
    let store = store.store().clone();
    store.close().unwrap();
}
