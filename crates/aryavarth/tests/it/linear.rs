//! A checker of linearizability: could the answers to many threads have come from one operation
//! after the other, each at one moment between its call and its return?
//!
//! The search is Wing and Gong's, with the memo of Lowe: take any operation that nothing else must
//! come before, apply it to the state, and go on if its answer is the one that was given; a set of
//! operations that led to a state once and failed is not tried again. Independent parts are
//! checked apart: a history is of one *group* of keys, and an operation touches one group. A batch
//! is one operation on its group's whole state, so half a batch has no moment at which it was
//! true.
//!
//! An operation without an answer (its caller was told an error, or nothing) may have happened at
//! any time after its call, or not at all.

use std::collections::HashSet;
use std::fmt::Write;

/// The values of a group's keys.
pub(crate) type State = Vec<Option<u64>>;

/// A caller's request. Keys are places in the group's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// The values of these keys at one moment.
    Read(Vec<usize>),
    /// Sets keys, or removes them, at one moment; says how many removals found their key.
    Write(Vec<(usize, Option<u64>)>),
    /// Adds one to each of these keys, of which an absent one holds 0; returns the old values.
    Increment(Vec<usize>),
    /// Sets the key to `new` if it holds `old`; returns the value before.
    CompareAndSet { key: usize, old: Option<u64>, new: u64 },
}

/// The answer to a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Values(Vec<Option<u64>>),
    Removed(u64),
}

/// An operation with the moments of its call and its return, on a clock that all threads share.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) op: Op,
    /// `None` if the outcome is unknown.
    pub(crate) answer: Option<Answer>,
    pub(crate) call: u64,
    pub(crate) end: u64,
}

impl Op {
    fn apply(&self, state: &State) -> (State, Answer) {
        let mut next = state.clone();
        let values = |keys: &[usize]| keys.iter().map(|&key| state[key]).collect();
        let answer = match self {
            Op::Read(keys) => Answer::Values(values(keys)),
            Op::Write(writes) => {
                let mut removed = 0;
                for &(key, value) in writes {
                    removed += u64::from(value.is_none() && next[key].is_some());
                    next[key] = value;
                }
                Answer::Removed(removed)
            }
            Op::Increment(keys) => {
                for &key in keys {
                    next[key] = Some(state[key].unwrap_or(0) + 1);
                }
                Answer::Values(values(keys))
            }
            &Op::CompareAndSet { key, old, new } => {
                if state[key] == old {
                    next[key] = Some(new);
                }
                Answer::Values(values(&[key]))
            }
        };
        (next, answer)
    }
}

/// Whether the history of one group, which begins with `state`, is linearizable; if not, the
/// history in words, with the answers that could not be explained.
pub(crate) fn check(state: &State, history: &[Event]) -> Result<(), String> {
    let mut events: Vec<&Event> = history.iter().collect();
    events.sort_by_key(|event| event.call);
    let placed = vec![false; events.len()];
    let unplaced = events.iter().filter(|event| event.answer.is_some()).count();
    let mut search = Search { events, placed, seen: HashSet::new(), deepest: Deepest::default() };
    if search.explains(state, unplaced) { Ok(()) } else { Err(search.story(state)) }
}

struct Search<'a> {
    /// By the time of their call.
    events: Vec<&'a Event>,
    placed: Vec<bool>,
    /// Sets of placed operations with the state that they led to, tried in vain.
    seen: HashSet<(Vec<bool>, State)>,
    deepest: Deepest,
}

/// The longest explanation that was found.
#[derive(Default)]
struct Deepest {
    placed: Vec<bool>,
    state: State,
}

impl Search<'_> {
    /// Whether the operations that are not placed yet can follow upon `state`. `unplaced` counts
    /// those whose outcome is known.
    fn explains(&mut self, state: &State, unplaced: usize) -> bool {
        if unplaced == 0 {
            return true;
        }
        if !self.seen.insert((self.placed.clone(), state.clone())) {
            return false;
        }
        let depth = |placed: &[bool]| placed.iter().filter(|&&placed| placed).count();
        if self.deepest.placed.is_empty() || depth(&self.placed) > depth(&self.deepest.placed) {
            self.deepest = Deepest { placed: self.placed.clone(), state: state.clone() };
        }
        for i in self.next_ones() {
            let (next, answer) = self.events[i].op.apply(state);
            let told = self.events[i].answer.as_ref();
            // An unknown operation that changes nothing might as well not have happened.
            if told.map_or(next == *state, |told| *told != answer) {
                continue;
            }
            self.placed[i] = true;
            if self.explains(&next, unplaced - usize::from(told.is_some())) {
                return true;
            }
            self.placed[i] = false;
        }
        false
    }

    /// The operations that may come next: those that were called before any other had returned.
    fn next_ones(&self) -> Vec<usize> {
        let mut ones = Vec::new();
        let mut first_end = u64::MAX;
        for (i, event) in self.events.iter().enumerate() {
            if event.call > first_end {
                break;
            }
            if !self.placed[i] {
                ones.push(i);
                if event.answer.is_some() {
                    first_end = first_end.min(event.end);
                }
            }
        }
        ones
    }

    fn story(&self, state: &State) -> String {
        let mut story = format!("not linearizable, from {state:?}:\n");
        for (event, &placed) in self.events.iter().zip(&self.deepest.placed) {
            let sign = if placed { ' ' } else { '?' };
            let Event { op, answer, call, end } = event;
            let _ = match answer {
                Some(answer) => writeln!(story, "{sign} {call:6}..{end:<6} {op:?} -> {answer:?}"),
                None => writeln!(story, "{sign} {call:6}..       {op:?} -> unknown"),
            };
        }
        let _ = write!(story, "what is marked cannot follow upon {:?}", self.deepest.state);
        story
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(call: u64, end: u64, op: Op, answer: Answer) -> Event {
        Event { op, answer: Some(answer), call, end }
    }

    fn unknown(call: u64, op: Op) -> Event {
        Event { op, answer: None, call, end: u64::MAX }
    }

    fn set(call: u64, end: u64, key: usize, value: u64) -> Event {
        event(call, end, Op::Write(vec![(key, Some(value))]), Answer::Removed(0))
    }

    fn remove(call: u64, end: u64, key: usize, found: bool) -> Event {
        event(call, end, Op::Write(vec![(key, None)]), Answer::Removed(found.into()))
    }

    fn both(call: u64, end: u64, value: u64) -> Event {
        let writes = vec![(0, Some(value)), (1, Some(value))];
        event(call, end, Op::Write(writes), Answer::Removed(0))
    }

    fn read(call: u64, end: u64, key: usize, value: impl Into<Option<u64>>) -> Event {
        event(call, end, Op::Read(vec![key]), Answer::Values(vec![value.into()]))
    }

    fn read_both(call: u64, end: u64, values: [u64; 2]) -> Event {
        event(call, end, Op::Read(vec![0, 1]), Answer::Values(values.map(Some).to_vec()))
    }

    fn increment(call: u64, end: u64, held: impl Into<Option<u64>>) -> Event {
        event(call, end, Op::Increment(vec![0]), Answer::Values(vec![held.into()]))
    }

    fn compare_and_set(call: u64, end: u64, old: u64, new: u64, held: u64) -> Event {
        let op = Op::CompareAndSet { key: 0, old: Some(old), new };
        event(call, end, op, Answer::Values(vec![Some(held)]))
    }

    fn is_right(history: &[Event]) -> bool {
        check(&vec![None; 2], history).is_ok()
    }

    #[test]
    fn a_history_that_can_have_happened_is_accepted() {
        assert!(is_right(&[]));
        assert!(is_right(&[read(1, 2, 0, None), set(3, 4, 0, 7), read(5, 6, 0, 7)]));
        // Overlapping: the readers may see either, as long as they agree on the order.
        let overlap = [set(1, 9, 0, 1), read(2, 3, 0, None), read(4, 5, 0, 1), read(6, 7, 0, 1)];
        assert!(is_right(&overlap));
        let two = [set(1, 9, 0, 1), set(2, 8, 0, 2), read(3, 4, 0, 2), read(5, 6, 0, 1)];
        assert!(is_right(&two));
        assert!(is_right(&[set(1, 2, 0, 1), remove(3, 8, 0, true), remove(4, 7, 0, false)]));
        assert!(is_right(&[both(1, 9, 5), read(2, 3, 1, None), read_both(4, 6, [5, 5])]));
        assert!(is_right(&[increment(1, 6, 1), increment(2, 5, None), read(7, 8, 0, 2)]));
        let swaps =
            [set(1, 2, 0, 1), compare_and_set(3, 9, 1, 2, 1), compare_and_set(4, 8, 1, 3, 2)];
        assert!(is_right(&swaps));
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened_or_not() {
        let lost = unknown(1, Op::Write(vec![(0, Some(7))]));
        assert!(is_right(&[lost.clone(), read(2, 3, 0, None)]));
        assert!(is_right(&[lost.clone(), read(2, 3, 0, 7)]));
        // Even long afterwards.
        assert!(is_right(&[lost.clone(), read(2, 3, 0, None), set(4, 5, 0, 1), read(6, 7, 0, 7)]));
        // But only once, and not before it was asked for.
        let twice = [lost.clone(), read(2, 3, 0, 7), set(4, 5, 0, 1), read(6, 7, 0, 7)];
        assert!(!is_right(&twice));
        assert!(!is_right(&[read(2, 3, 0, 7), unknown(4, Op::Write(vec![(0, Some(7))]))]));
        let half = unknown(1, Op::Write(vec![(0, Some(7)), (1, Some(7))]));
        assert!(!is_right(&[half, read(2, 3, 0, 7), read(4, 5, 1, None)]));
    }

    #[test]
    fn a_stale_read_is_wrong() {
        assert!(!is_right(&[set(1, 2, 0, 1), set(3, 4, 0, 2), read(5, 6, 0, 1)]));
        assert!(!is_right(&[set(1, 2, 0, 1), read(3, 4, 0, None)]));
        // Each read alone is right: the second one went back in time.
        assert!(!is_right(&[set(1, 9, 0, 1), read(2, 3, 0, 1), read(4, 5, 0, None)]));
    }

    #[test]
    fn two_readers_that_disagree_on_the_order_are_wrong() {
        let writes = [set(1, 20, 0, 1), set(2, 21, 0, 2)];
        let one = [read(3, 4, 0, 1), read(5, 6, 0, 2)];
        let other = [read(3, 4, 0, 2), read(7, 8, 0, 1)];
        assert!(is_right(&[&writes[..], &one].concat()));
        assert!(is_right(&[&writes[..], &other].concat()));
        assert!(!is_right(&[&writes[..], &one, &other].concat()));
    }

    #[test]
    fn a_lost_update_is_wrong() {
        assert!(!is_right(&[increment(1, 5, None), increment(2, 6, None), read(7, 8, 0, 2)]));
        assert!(!is_right(&[increment(1, 2, None), increment(3, 4, 1), read(5, 6, 0, 1)]));
        let both_swapped =
            [set(1, 2, 0, 1), compare_and_set(3, 9, 1, 2, 1), compare_and_set(4, 8, 1, 3, 1)];
        assert!(!is_right(&both_swapped));
    }

    #[test]
    fn a_value_that_nobody_wrote_is_wrong() {
        assert!(!is_right(&[set(1, 9, 0, 1), read(2, 3, 0, 2)]));
        assert!(!is_right(&[set(1, 9, 0, 1), read(2, 3, 1, 1)]));
    }

    #[test]
    fn a_value_from_the_future_is_wrong() {
        assert!(!is_right(&[read(1, 2, 0, 7), set(3, 4, 0, 7)]));
        assert!(is_right(&[read(1, 4, 0, 7), set(3, 5, 0, 7)]));
    }

    #[test]
    fn a_removed_key_that_is_back_is_wrong() {
        let removed = [set(1, 2, 0, 1), remove(3, 4, 0, true)];
        assert!(!is_right(&[&removed[..], &[read(5, 6, 0, 1)]].concat()));
        assert!(!is_right(&[&removed[..], &[remove(5, 6, 0, true)]].concat()));
        assert!(!is_right(&[set(1, 2, 0, 1), remove(3, 4, 0, false)]));
    }

    #[test]
    fn half_a_batch_is_wrong() {
        assert!(!is_right(&[both(1, 2, 5), both(3, 9, 6), read_both(4, 5, [6, 5])]));
        let one_after_the_other =
            [both(1, 2, 5), both(3, 9, 6), read(4, 5, 0, 6), read(6, 7, 1, 5)];
        assert!(!is_right(&one_after_the_other));
        // In the other order a whole batch may lie between the two.
        assert!(is_right(&[both(1, 2, 5), both(3, 9, 6), read(4, 5, 1, 5), read(6, 7, 0, 6)]));
    }

    #[test]
    fn a_refused_history_names_the_event_that_does_not_fit() {
        let story = check(&vec![None], &[set(1, 2, 0, 1), read(3, 4, 0, 9)]).unwrap_err();
        assert!(story.contains("?      3..4      Read([0]) -> Values([Some(9)])"), "{story}");
        assert!(story.ends_with("cannot follow upon [Some(1)]"), "{story}");
    }

    /// The definition, word for word: some order of some of the unknown operations and all others
    /// that keeps to the clock and gives the answers that were given.
    fn is_right_by_trying_all(state: &State, placed: &mut Vec<usize>, history: &[Event]) -> bool {
        let left: Vec<usize> = (0..history.len()).filter(|i| !placed.contains(i)).collect();
        if left.iter().all(|&i| history[i].answer.is_none()) {
            return true;
        }
        for &i in &left {
            let too_early = left.iter().any(|&other| history[other].end < history[i].call);
            let (next, answer) = history[i].op.apply(state);
            if too_early || history[i].answer.as_ref().is_some_and(|told| *told != answer) {
                continue;
            }
            placed.push(i);
            let right = is_right_by_trying_all(&next, placed, history);
            placed.pop();
            if right {
                return true;
            }
        }
        false
    }

    #[test]
    fn the_search_agrees_with_trying_all_orders() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |end: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) % end
        };
        let mut verdicts = [0, 0];
        for _ in 0..20_000 {
            let some = |below: &mut dyn FnMut(u64) -> u64| Some(below(3)).filter(|&n| n > 0);
            let history: Vec<Event> = (0..2 + below(5))
                .map(|_| {
                    let (key, other) = (below(2) as usize, some(&mut below));
                    let (op, answer) = match below(5) {
                        0 | 1 => (Op::Read(vec![key]), Answer::Values(vec![other])),
                        2 => (Op::Write(vec![(key, other)]), Answer::Removed(below(2))),
                        3 => (Op::Write(vec![(0, other), (1, other)]), Answer::Removed(0)),
                        _ => (Op::Increment(vec![key]), Answer::Values(vec![other])),
                    };
                    let call = below(12);
                    match below(6) {
                        0 => unknown(call, op),
                        _ => event(call, call + 1 + below(8), op, answer),
                    }
                })
                .collect();
            let right = is_right(&history);
            let wanted = is_right_by_trying_all(&vec![None; 2], &mut Vec::new(), &history);
            assert_eq!(right, wanted, "{history:?}");
            verdicts[usize::from(right)] += 1;
        }
        assert!(verdicts.iter().all(|&count| count > 1000), "{verdicts:?}");
    }
}
