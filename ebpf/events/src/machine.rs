//! How a thread goes from one state to another, and what the time in between counts as.
//!
//! Owns: the transitions of a [`ThreadHead`]; the kernel's probes and simulated traces share them.
//! Must not know: what tells the kernel of a transition, whose lock protects the entry.

use crate::{
    CpuEntry, Held, PROGRAM_IDLE, PROGRAM_INTERRUPTS, PROGRAMS, Part, ThreadHead, ThreadState,
    TimelineEntry, kind, timeline::end_stretch,
};

/// A thread, its timeline if it has one, and the time.
pub struct Transition<'a> {
    /// The thread.
    pub thread: &'a mut ThreadHead,
    /// Its timeline.
    pub timeline: Option<&'a mut TimelineEntry>,
    /// CLOCK_MONOTONIC.
    pub now_ns: u64,
    /// How often it has left a CPU so far by the kernel's own count, a switch under way included.
    /// If it has left one unseen, what it did meanwhile is not known.
    pub switches: u64,
}

impl CpuEntry {
    /// Goes from one task to another.
    #[inline(always)]
    pub fn switch(&mut self, next_tid: u32, next_program: u8, now_ns: u64) {
        self.charge_holder(now_ns);
        self.holder_tid = next_tid;
        self.holder_program = u32::from(next_program);
        self.own_send_ns = 0;
        self.switches += 1;
    }

    /// Adds the time up to now to the clock of whoever holds it. The rest of the turn begins now.
    #[inline(always)]
    fn charge_holder(&mut self, now_ns: u64) {
        if self.since_ns != 0 {
            let lasted_ns = now_ns.saturating_sub(self.since_ns);
            if let Some(clock) = self.held_ns.get_mut(self.holder_program as usize) {
                *clock += lasted_ns;
            }
        }
        self.since_ns = now_ns;
    }

    /// Interrupts had it from an instant until now.
    #[inline(always)]
    pub fn interrupt(&mut self, from_ns: u64, now_ns: u64) {
        let from_ns = from_ns.max(self.since_ns);
        self.charge_holder(from_ns);
        self.held_ns[PROGRAM_INTERRUPTS as usize] += now_ns.saturating_sub(from_ns);
        self.since_ns = now_ns;
    }

    /// Who has held it up to now. May be asked on another CPU while this one writes.
    #[inline(always)]
    pub fn held(&self, program: u32, now_ns: u64) -> Held {
        let lasting_ns = now_ns.saturating_sub(self.since_ns);
        let clock = |program: u32| {
            let total = self.held_ns.get(program as usize).copied().unwrap_or_default();
            total + if program == self.holder_program { lasting_ns } else { 0 }
        };
        Held {
            own_ns: clock(program),
            idle_ns: clock(u32::from(PROGRAM_IDLE)),
            interrupts_ns: clock(u32::from(PROGRAM_INTERRUPTS)),
        }
    }
}

const _: () = assert!(PROGRAMS == 16);

impl Transition<'_> {
    /// It leaves a CPU and wants to go on. `held` are that CPU's clocks.
    #[inline(always)]
    pub fn made_to_go(mut self, cpu: u32, held: Held) {
        self.leave(cpu);
        self.thread.switches_involuntary += 1;
        self.begin_wait(held);
    }

    /// It leaves a CPU of its own will, and until it comes back its time goes by with `off_kind`.
    #[inline(always)]
    pub fn goes(mut self, cpu: u32, off_kind: usize) {
        self.leave(cpu);
        self.thread.switches_voluntary += 1;
        self.thread.off_kind = off_kind as u32;
        self.thread.state = ThreadState::SLEEPING;
    }

    /// It leaves a CPU for good.
    #[inline(always)]
    pub fn ends(mut self, cpu: u32) {
        self.leave(cpu);
        self.thread.switches_voluntary += 1;
        self.thread.state = ThreadState::EXITED;
    }

    #[inline(always)]
    fn leave(&mut self, cpu: u32) {
        // It ran, unless it came unseen, or left meanwhile.
        let seen = self.saw_all(1);
        let ran = seen && self.thread.state == ThreadState::RUNNING;
        self.end(if ran { kind::RUN } else { kind::UNKNOWN });
        self.thread.cpu = cpu;
    }

    /// Whether it has left a CPU only as often as was seen, and `more` times now.
    #[inline(always)]
    fn saw_all(&mut self, more: u64) -> bool {
        let seen = self.thread.switches_seen.wrapping_add(more);
        self.thread.switches_seen = self.switches;
        seen == self.switches
    }

    /// It comes onto a CPU. `held` are the clocks of the CPU that it waited for. Returns how long
    /// it has waited, if it has.
    #[inline(always)]
    pub fn comes(mut self, cpu: u32, held: Held) -> Option<u64> {
        let mut waited_ns = None;
        let seen = self.saw_all(0);
        if self.thread.state == ThreadState::WAITING {
            self.end_wait(held, seen);
            waited_ns = Some(self.now_ns.saturating_sub(self.thread.wait_began_ns));
        } else if self.thread.state == ThreadState::SLEEPING {
            // So comes back who was throttled. Anybody else was woken unseen, some time.
            self.end_sleep(seen && self.thread.off_kind as usize == kind::THROTTLED);
        } else {
            self.end(kind::UNKNOWN);
        }
        self.thread.state = ThreadState::RUNNING;
        self.thread.cpu = cpu;
        waited_ns
    }

    /// It is woken, and waits for its CPU, whose clocks are `held`.
    #[inline(always)]
    pub fn wakes(mut self, held: Held) {
        // Who was throttled is not woken: it has come back and gone to sleep unseen.
        let seen = self.saw_all(0);
        self.end_sleep(seen && self.thread.off_kind as usize != kind::THROTTLED);
        self.begin_wait(held);
    }

    /// It is moved to another CPU while it waits or sleeps. `from` are the clocks of the CPU that
    /// it leaves, `to` those of the other.
    #[inline(always)]
    pub fn moves(mut self, cpu: u32, from: Held, to: Held) {
        self.thread.migrations += 1;
        if self.thread.state == ThreadState::WAITING {
            let seen = self.saw_all(0);
            self.end_wait(from, seen);
        }
        self.thread.held_at = to;
        self.thread.cpu = cpu;
    }

    /// Interrupts had its CPU since `from_ns`, while it was on it.
    #[inline(always)]
    pub fn was_interrupted(mut self, from_ns: u64) {
        let until_ns = self.now_ns;
        self.now_ns = from_ns.max(self.thread.since_ns);
        let ran = self.saw_all(0);
        self.end(if ran { kind::RUN } else { kind::UNKNOWN });
        self.now_ns = until_ns;
        self.end(kind::INTERRUPTED);
    }

    #[inline(always)]
    fn begin_wait(&mut self, held: Held) {
        self.thread.state = ThreadState::WAITING;
        self.thread.wait_began_ns = self.thread.since_ns;
        self.thread.held_at = held;
    }

    #[inline(always)]
    fn end_wait(&mut self, held: Held, seen: bool) {
        if !seen {
            return self.end(kind::UNKNOWN);
        }
        let parts = wait_parts(self.thread, held, self.now_ns);
        end_stretch(self.thread, self.timeline.as_deref_mut(), parts, self.now_ns);
    }

    #[inline(always)]
    fn end_sleep(&mut self, known: bool) {
        self.end(if known { self.thread.off_kind as usize } else { kind::UNKNOWN });
    }

    /// Ends a stretch of one kind.
    #[inline(always)]
    fn end(&mut self, clock: usize) {
        if self.thread.state == ThreadState::UNKNOWN {
            // Its time begins now.
            self.thread.since_ns = self.now_ns;
            return;
        }
        let length_ns = self.now_ns.saturating_sub(self.thread.since_ns);
        let timeline = self.timeline.as_deref_mut();
        end_stretch(self.thread, timeline, [(clock, length_ns)], self.now_ns);
    }
}

/// What a wait until `now_ns` for the thread's present CPU goes by with.
#[inline(always)]
pub fn wait_parts(thread: &ThreadHead, held: Held, now_ns: u64) -> [Part; 4] {
    let length_ns = now_ns.saturating_sub(thread.since_ns);
    // Clocks of another CPU are read while it writes them: none takes more than there is.
    let own_ns = held.own_ns.saturating_sub(thread.held_at.own_ns).min(length_ns);
    let left_ns = length_ns - own_ns;
    let idle_ns = held.idle_ns.saturating_sub(thread.held_at.idle_ns).min(left_ns);
    let left_ns = left_ns - idle_ns;
    let interrupts_ns =
        held.interrupts_ns.saturating_sub(thread.held_at.interrupts_ns).min(left_ns);
    [
        (kind::WAIT_OWN, own_ns),
        (kind::WAIT_IDLE, idle_ns),
        (kind::WAIT_INTERRUPTS, interrupts_ns),
        (kind::WAIT_OTHER, left_ns - interrupts_ns),
    ]
}
