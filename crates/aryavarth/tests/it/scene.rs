//! The step of a sweep: reported should it panic, and should it hang.
//!
//! A test that hangs says nothing, and stops all others with it. So a sweep works on two threads of
//! its own while the test watches them, and panics with the name of the scene that does not end.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// No scene takes so long, on a machine however busy.
const SCENE_TIME_MAX: Duration = Duration::from_secs(120);

/// The scenes of all threads: their numbers, when they began, and their names.
static UNDER_WAY: Mutex<Vec<(u64, Instant, String)>> = Mutex::new(Vec::new());

/// One piece of a sweep, from its making to its drop.
pub(crate) struct Scene {
    pub(crate) text: String,
    number: u64,
}

impl Scene {
    pub(crate) fn new(text: String) -> Scene {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        UNDER_WAY.lock().unwrap().push((number, Instant::now(), text.clone()));
        Scene { text, number }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        UNDER_WAY.lock().unwrap().retain(|(number, ..)| *number != self.number);
        if thread::panicking() {
            eprintln!("this happened in: {}", self.text);
        }
    }
}

/// Runs `work` on two threads to the end; panics if it does, and if a scene hangs.
pub(crate) fn in_two_threads(work: impl Fn() + Send + Sync + 'static) {
    let work = Arc::new(work);
    let start = || {
        let work = Arc::clone(&work);
        thread::spawn(move || work())
    };
    for thread in [start(), start()] {
        while !thread.is_finished() {
            let scenes = UNDER_WAY.lock().unwrap();
            let hung = scenes.iter().find(|(_, begun, _)| begun.elapsed() > SCENE_TIME_MAX);
            let hung = hung.map(|(.., text)| text.clone());
            drop(scenes);
            assert!(hung.is_none(), "this hangs: {hung:?}");
            thread::sleep(Duration::from_millis(10));
        }
        thread.join().unwrap_or_else(|panic| resume_unwind(panic));
    }
}
