//! The same seed is the same schedule of users and instants on one machine and on a fleet, however
//! the users are dealt out and whenever a machine looks at its clock.

use lab_client::pacer::Pacer;
use platform::{Clock, NANOS_PER_SECOND};
use workload::{Pacing, Rate, Schedule, Second, Share};

const USERS: u32 = 10_007;
const SEED: u64 = 2015;
const START: u64 = 1_795_300_000;
const SECONDS: u64 = 5;
const RATE: Rate = Rate::Ramp { from: 700, to: 9_000, seconds: 4 };

/// A client machine: its users, its shards, and the offset of its clock.
struct Machine {
    users: std::ops::Range<u32>,
    shards: usize,
    offset_ns: i64,
    /// How often it looks at its clock: machines are late by different times.
    every_ns: u64,
}

impl Machine {
    /// What it carries out: Unix nanoseconds and users.
    fn carry_out(&self, seed: u64, pacing: Pacing) -> Vec<(u64, u32)> {
        let clock = Clock::with_offset(self.offset_ns);
        let mut all = Vec::new();
        for shard in 0..self.shards {
            let share = Share {
                total_users: USERS,
                first: self.users.start,
                end: self.users.end,
                shard,
                shards: self.shards,
            };
            let end = START + SECONDS;
            let mut pacer = Pacer::new(share, clock, seed, RATE, pacing, START, Some(end));
            let mut now_ns = clock.start_of(START - 1);
            while pacer.wake_ns() != u64::MAX {
                now_ns += self.every_ns;
                while let Some((due_ns, user)) = pacer.next(now_ns) {
                    if due_ns > now_ns {
                        break;
                    }
                    let unix_ns = due_ns.checked_add_signed(self.offset_ns).expect("an instant");
                    all.push((unix_ns, share.global(user)));
                    pacer.pop();
                }
            }
        }
        all.sort_unstable();
        all
    }
}

fn one() -> Machine {
    Machine { users: 0..USERS, shards: 1, offset_ns: 0, every_ns: 1_000_000 }
}

/// The articles' 17 client machines, no two alike.
fn seventeen() -> Vec<Machine> {
    // Parts of 130 to 1,030 users, and the rest.
    let mut bounds: Vec<u32> = (0..17).map(|number| 100 * number + 30 * number * number).collect();
    bounds.push(USERS);
    let machine = |(number, users): (usize, &[u32])| Machine {
        users: users[0]..users[1],
        shards: 1 + number % 3,
        // Machines were started within half a year.
        offset_ns: (START - 1_000_000 * number as u64).cast_signed() * 1_000_000_000 - 12_345,
        every_ns: 300_000 + 7_700_000 * number as u64,
    };
    bounds.windows(2).enumerate().map(machine).collect()
}

#[test]
fn seventeen_clients_together_have_the_users_and_instants_of_one() {
    for pacing in [Pacing::Even, Pacing::Poisson, Pacing::Prototype] {
        let alone = one().carry_out(SEED, pacing);
        let machines = seventeen();
        assert_eq!(machines.iter().map(|it| it.users.len()).sum::<usize>(), USERS as usize);
        let parts: Vec<Vec<(u64, u32)>> =
            machines.iter().map(|machine| machine.carry_out(SEED, pacing)).collect();
        for (machine, part) in machines.iter().zip(&parts) {
            assert!(!part.is_empty(), "{pacing:?}: {:?} has nothing to do", machine.users);
            assert!(part.iter().all(|(_, user)| machine.users.contains(user)), "{pacing:?}");
        }
        let mut together = parts.concat();
        together.sort_unstable();
        assert_eq!(alone.len(), together.len(), "{pacing:?}");
        assert!(alone == together, "{pacing:?}: users or instants differ");
        // It is the schedule that is written down, and depends on the seed where chance is in it.
        let schedule = Schedule::new(USERS, SEED, pacing);
        let mut before = 0;
        let mut written = Vec::new();
        for of_phase in 0..SECONDS {
            let (unix, rate) = (START + of_phase, RATE.at(of_phase));
            let second = Second { unix, of_phase, rate, before };
            before += u64::from(rate);
            let at = |offset_ns| unix * NANOS_PER_SECOND + offset_ns;
            written.extend(schedule.arrivals(second).map(|(ns, user)| (at(ns), user)));
        }
        written.sort_unstable();
        assert!(alone == written, "{pacing:?}: not the schedule");
        let other = one().carry_out(SEED + 1, pacing);
        assert_eq!(alone == other, pacing == Pacing::Prototype, "{pacing:?}");
    }
}
