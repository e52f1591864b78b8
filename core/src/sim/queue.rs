//! Virtual time: events in order of time, and of scheduling where times are equal.

use super::event::Event;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// So many milliseconds from now on have a line of their own; nearly everything happens within them.
const LINES: usize = 4096;
const WINDOW_MS: u64 = LINES as u64;
const WORDS: usize = LINES / 64;

/// A place for one event, and who stands behind it in its line.
struct Slot {
    event: Option<Event>,
    behind: Option<u32>,
}

pub(super) struct Queue {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// One line for each millisecond of the window, first come, first served: its first and its last.
    lines: Vec<(u32, u32)>,
    /// Which of them are not empty, a bit each.
    waiting: [u64; WORDS],
    /// Nothing is due before; the window begins here.
    now: u64,
    /// What is due after the window.
    far: BinaryHeap<Reverse<(u64, u64, u32)>>,
    next_number: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            lines: vec![(0, 0); LINES],
            waiting: [0; WORDS],
            now: 0,
            far: BinaryHeap::new(),
            next_number: 0,
        }
    }
}

impl Queue {
    /// What is due in the past is due now.
    pub(super) fn push(&mut self, at: u64, event: Event) {
        let at = at.max(self.now);
        let slot = Slot { event: Some(event), behind: None };
        let place = if let Some(place) = self.free.pop() {
            self.slots[place as usize] = slot;
            place
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("a world has fewer events waiting")
        };
        if at - self.now < WINDOW_MS {
            self.stand_in_line(at, place);
        } else {
            self.next_number += 1;
            self.far.push(Reverse((at, self.next_number, place)));
        }
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        let at = match self.next_in_line() {
            Some(at) => at,
            None => self.far.peek()?.0.0,
        };
        if at != self.now {
            self.move_to(at);
        }
        let line = line(at);
        let (place, last) = self.lines[line];
        let Slot { event, behind } = &mut self.slots[place as usize];
        match behind.take() {
            Some(next) => self.lines[line] = (next, last),
            None => self.waiting[line / 64] &= !(1 << (line % 64)),
        }
        self.free.push(place);
        event.take().map(|event| (at, event))
    }

    fn stand_in_line(&mut self, at: u64, place: u32) {
        let line = line(at);
        let (bit, first) = (1 << (line % 64), self.lines[line]);
        if self.waiting[line / 64] & bit == 0 {
            self.waiting[line / 64] |= bit;
            self.lines[line] = (place, place);
        } else {
            self.slots[first.1 as usize].behind = Some(place);
            self.lines[line].1 = place;
        }
    }

    /// The window moves on. What comes into it was scheduled before anything that will be put there directly.
    fn move_to(&mut self, at: u64) {
        self.now = at;
        while let Some(&Reverse((due, _, place))) = self.far.peek()
            && due - at < WINDOW_MS
        {
            self.far.pop();
            self.stand_in_line(due, place);
        }
    }

    /// When the first of those in the window is due.
    fn next_in_line(&self) -> Option<u64> {
        let begin = line(self.now);
        let (word, bit) = (begin / 64, begin % 64);
        let first = self.waiting[word] >> bit;
        if first != 0 {
            return Some(self.now + u64::from(first.trailing_zeros()));
        }
        // The lines before `begin` are the end of the window, so the word in which it lies comes last again.
        (1..=WORDS).map(|step| (word + step) % WORDS).find(|word| self.waiting[*word] != 0).map(|word| {
            let found = word * 64 + self.waiting[word].trailing_zeros() as usize;
            self.now + ((found + LINES - begin) % LINES) as u64
        })
    }
}

fn line(at: u64) -> usize {
    usize::try_from(at % WINDOW_MS).expect("a number below LINES")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: usize) -> Event {
        Event::Fault(number)
    }

    fn number(event: &Event) -> usize {
        match event {
            Event::Fault(number) => *number,
            _ => usize::MAX,
        }
    }

    /// Against a list that is sorted each time.
    #[test]
    fn what_is_due_first_comes_first_and_of_two_the_one_that_was_scheduled_first() {
        let mut rng = crate::sim::rng::Rng::new(7);
        let mut queue = Queue::default();
        let mut plain: Vec<(u64, usize)> = Vec::new();
        let mut now = 0;
        for next in 0..20_000 {
            let at = now + if rng.chance(100) { rng.between(0, 50_000) } else { rng.between(0, 300) };
            queue.push(at, numbered(next));
            plain.push((at, next));
            while rng.chance(480) {
                let Some(first) = plain.iter().copied().min() else { break };
                plain.retain(|one| *one != first);
                let (at, event) = queue.pop().expect("as many as in the list");
                assert_eq!((at, number(&event)), first);
                now = at;
            }
        }
        plain.sort_unstable();
        for first in plain {
            let (at, event) = queue.pop().expect("as many as in the list");
            assert_eq!((at, number(&event)), first);
        }
        assert!(queue.pop().is_none());
    }
}
