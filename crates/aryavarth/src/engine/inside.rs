//! Calls from inside a transaction's closure: refused, because they would wait for themselves.
//!
//! A closure runs under its store's writer lock. A call into the same store that needs this lock, or
//! that waits for the disk meanwhile, would hang for ever or hold up every other writer. Each thread
//! therefore keeps a list of the stores whose closures it is running, and such a call looks there
//! first: one load of a thread's own variable as long as no closure runs on the thread.

use std::cell::{Cell, RefCell};

use crate::error::{KvsError, Result};
use crate::sync::{Apart, thread_local};

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Addresses of the stores whose closures the thread is running, the innermost last.
    static STORES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// A closure of one store that runs on this thread, from its making to its drop.
pub(crate) struct Inside {
    _apart: Apart,
}

impl Inside {
    pub(crate) fn enter<S>(store: &S) -> Inside {
        STORES.with(|stores| stores.borrow_mut().push(address(store)));
        DEPTH.with(|depth| depth.set(depth.get() + 1));
        Inside { _apart: Apart::begin() }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
        STORES.with(|stores| stores.borrow_mut().pop());
    }
}

fn address<S>(store: &S) -> usize {
    std::ptr::from_ref(store).addr()
}

/// Whether this thread is running a closure of `store`.
fn is_inside<S>(store: &S) -> bool {
    DEPTH.with(Cell::get) > 0 && STORES.with(|stores| stores.borrow().contains(&address(store)))
}

/// Refuses a call that cannot be made from inside a closure of `store`.
pub(crate) fn check_outside<S>(store: &S) -> Result<()> {
    if is_inside(store) { Err(KvsError::InsideTransaction) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_inside_the_stores_whose_closures_it_runs() {
        let (one, other) = ([0_u64], [0_u64]);
        let outer = Inside::enter(&one);
        {
            let _inner = Inside::enter(&other);
            assert!(is_inside(&one) && is_inside(&other));
        }
        assert!(is_inside(&one) && !is_inside(&other));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!is_inside(&one)));
        });
        drop(outer);
        assert!(check_outside(&one).is_ok());
    }
}
