//! The journal on a simulated disk: power losses, kills, full and failing disks at random instants,
//! restarts with other numbers of shards. What was acknowledged is there afterwards, and nothing
//! that was not at least asked for.

use journal::{
    Audit, CommitError, Failure, JournalError, Limits, OpenPacket, Record, Recovered,
    SimulatedDisk, State, Storage, Writer, audit, begin, recover,
};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Lives of a server, each ended by a crash, over all seeds: 4 a seed.
const SEEDS: u64 = 1_000;
const LIVES: usize = 4;

/// Small, so that a life has several segments.
const LIMITS: Limits = Limits { segment_bytes: 1_500, keep_history: false };

/// Something that can happen to this state, by chance; ids are new ones of the shard.
fn happening(state: &State, random: &mut Pcg64Mcg, ids: &mut u32, sets: &[u32]) -> Record {
    let set = sets[random.random_range(0..sets.len())];
    let waiting = state.sets.get(&set).and_then(|of| of.queue.front());
    let open = state.open.len();
    let chosen = (open > 0).then(|| state.open.iter().nth(random.random_range(0..open)));
    match (random.random_range(0..8), waiting, chosen.flatten()) {
        (0..=2, Some((packet, amount)), _) => {
            let user = random.random_range(0..50);
            Record::Granted { set, packet: *packet, amount: *amount, user }
        }
        (3..=4, _, Some((packet, open))) => {
            let most = open.left - (open.shares - 1);
            let last = open.shares == 1;
            let amount = if last { open.left } else { random.random_range(1..=most) };
            let user = open.waiting[random.random_range(0..open.waiting.len())];
            Record::Claimed { packet: *packet, user, amount }
        }
        (5, _, Some((packet, open))) => {
            Record::Refunded { packet: *packet, shares: open.shares, amount: open.left }
        }
        (6, _, Some((packet, open))) => {
            let user = (0..).find(|user| !open.waiting.contains(user)).expect("no end");
            Record::Entitled { packet: *packet, named: open.waiting[0], user }
        }
        (7, _, _) => {
            *ids += 1;
            let named = random.random_range(1..6);
            let waiting: Vec<u32> = (0..named).map(|user| user * 7).collect();
            let shares = random.random_range(1..=named);
            let left = shares + random.random_range(0..90);
            let deadline_ns = random.random_range(0..1 << 40);
            let open = OpenPacket { set, creator: 3, left, shares, deadline_ns, waiting };
            Record::Opened { packet: *ids, open }
        }
        _ => {
            *ids += 1;
            Record::Created { set, packet: *ids, amount: random.random_range(1..300) }
        }
    }
}

/// What all shards have, merged as a restart merges it.
fn merged<'a>(states: impl Iterator<Item = &'a State>) -> State {
    states.fold(State::default(), |mut all, state| {
        all.merge(state.clone()).expect("no packet twice");
        all
    })
}

/// But for the sequence numbers, which begin anew in each epoch.
fn unnumbered(state: &State) -> State {
    State { seq: 0, ..state.clone() }
}

/// Divides what was recovered: SETs by their number, and their packets with them.
fn divide(state: &State, shards: u32) -> Vec<State> {
    let share = |shard| {
        let of = |set: &u32| set % shards == shard;
        State {
            seq: 0,
            sets: state.sets.iter().filter(|(set, _)| of(set)).map(clone).collect(),
            open: state.open.iter().filter(|(_, open)| of(&open.set)).map(clone).collect(),
            next_shaken: state.next_shaken,
            next_sent: state.next_sent,
        }
    };
    (0..shards).map(share).collect()
}

fn clone<K: Copy, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (*key, value.clone())
}

/// The packet of a grant.
fn packet_of(record: &Record) -> Option<u32> {
    match record {
        Record::Granted { packet, .. } => Some(*packet),
        _ => None,
    }
}

/// A ledger and all that was acknowledged.
struct Life {
    disk: SimulatedDisk,
    random: Pcg64Mcg,
    limits: Limits,
    /// What is acknowledged, all shards together.
    acknowledged: State,
    /// Packets whose grants were acknowledged.
    granted: Vec<u32>,
    /// What was being written when the last life ended, and all shards together with it.
    pending: Option<(State, Vec<Record>)>,
    ids: u32,
    /// Commits that failed although the power was there, and were tried again.
    retried: u64,
}

impl Life {
    fn new(seed: u64, keep_history: bool) -> Self {
        Self {
            disk: SimulatedDisk::default(),
            random: Pcg64Mcg::seed_from_u64(seed),
            limits: Limits { keep_history, ..LIMITS },
            acknowledged: State::default(),
            granted: Vec::new(),
            pending: None,
            ids: 0,
            retried: 0,
        }
    }

    /// What a restart finds: all that was acknowledged, and perhaps what was being written when the
    /// last life ended, as a whole.
    fn find(&self) -> (Recovered, bool) {
        let recovered = recover(&self.disk).expect("what was acknowledged can be read");
        let found = unnumbered(&recovered.state);
        let with_pending = self.pending.as_ref().is_some_and(|(state, _)| *state == found);
        if !with_pending {
            assert_eq!(found, unnumbered(&self.acknowledged));
        }
        (recovered, with_pending)
    }

    /// Restarts, works, and crashes.
    fn live(&mut self) {
        let (recovered, with_pending) = self.find();
        self.ids = self.ids.max(recovered.state.next_shaken).max(recovered.state.next_sent);
        let shards = self.random.random_range(1..=3);
        let crash = self.random.random_range(0..120);
        self.disk.fail_after(crash, Failure::PowerLoss);
        for _ in 0..self.random.random_range(0..4) {
            let kind = if self.random.random() { Failure::Full } else { Failure::Broken };
            let at = self.random.random_range(0..120);
            self.disk.fail_after(at, kind);
        }
        let shares = divide(&recovered.state, shards);
        match begin(&self.disk, recovered.found.epoch, shares.clone(), self.limits) {
            Ok(writers) => {
                // From here on clients may see it.
                if let Some((state, records)) = self.pending.take().filter(|_| with_pending) {
                    self.acknowledge(&records);
                    self.acknowledged = state;
                }
                self.work(writers, shares);
            }
            // It did not begin, and nobody was told anything.
            Err(JournalError::Io { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if self.random.random() {
            self.disk.power_loss(&mut self.random);
        } else {
            self.disk.restart();
        }
    }

    fn acknowledge(&mut self, records: &[Record]) {
        self.granted.extend(records.iter().filter_map(packet_of));
    }

    /// Commits until the power is gone.
    fn work(&mut self, mut writers: Vec<Writer<SimulatedDisk>>, mut states: Vec<State>) {
        let shards = writers.len() as u32;
        for _ in 0..200 {
            let shard = self.random.random_range(0..shards);
            let sets: Vec<u32> = (0..6).filter(|set| set % shards == shard).collect();
            let mut next = states[shard as usize].clone();
            let records: Vec<Record> = (0..self.random.random_range(1..12))
                .map(|_| {
                    let record = happening(&next, &mut self.random, &mut self.ids, &sets);
                    next.apply(&record).expect("possible");
                    record
                })
                .collect();
            let writer = &mut writers[shard as usize];
            let mut tries = 0;
            while let Err(error) = writer.commit(&records) {
                assert!(matches!(error, CommitError::Disk(_)), "{error}");
                tries += 1;
                // A failure on purpose comes once; one that stays is the power.
                if tries > 8 {
                    states[shard as usize] = next;
                    self.pending = Some((unnumbered(&merged(states.iter())), records));
                    return;
                }
            }
            self.retried += u64::from(tries > 0);
            assert_eq!(unnumbered(writer.state()), unnumbered(&next));
            states[shard as usize] = next;
            self.acknowledged = merged(states.iter());
            self.acknowledge(&records);
        }
    }

    /// The audit finds nothing wrong, and every grant that was acknowledged when it is all there.
    fn check(&self) -> Audit {
        let mut granted = Vec::new();
        let audit = audit(&self.disk, |record| {
            granted.extend(packet_of(record));
        });
        let audit = audit.expect("readable");
        assert_eq!(audit.faults, Vec::<String>::new());
        let (recovered, with_pending) = self.find();
        assert_eq!(audit.ledger, recovered.state.ledger());
        if self.limits.keep_history && audit.epochs > 0 {
            assert!(audit.complete);
            let mut expected = self.granted.clone();
            if let Some((_, records)) = self.pending.as_ref().filter(|_| with_pending) {
                expected.extend(records.iter().filter_map(packet_of));
            }
            expected.sort_unstable();
            granted.sort_unstable();
            assert_eq!(granted, expected);
        }
        audit
    }
}

/// Says which seed it was when a check fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed is {}", self.0);
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_whenever_the_power_goes() {
    let (mut segments, mut torn, mut grants, mut retried, mut refunds) = (0, 0, 0, 0, 0);
    for seed in 0..SEEDS {
        let _seed = Seed(seed);
        let mut life = Life::new(seed, seed % 2 == 0);
        for _ in 0..LIVES {
            life.live();
            let audit = life.check();
            (segments, torn) = (segments + audit.segments, torn + audit.torn_bytes);
        }
        grants += life.granted.len();
        retried += life.retried;
        refunds += life.acknowledged.ledger().refunded.count;
    }
    // The seeds do reach all of it.
    assert!(grants > 10_000 && refunds > 2_500, "{grants} granted, {refunds} refunded");
    assert!(segments > 5_000 && torn > 5_000, "{segments} segments, {torn} bytes torn");
    assert!(retried > 250, "{retried} commits went on in a new segment");
}

#[test]
fn damage_before_the_end_is_never_taken_for_a_torn_tail() {
    let (mut damaged, mut torn) = (0, 0);
    for seed in 0..300 {
        let _seed = Seed(seed);
        let disk = SimulatedDisk::default();
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut writers = begin(&disk, 0, vec![State::default()], Limits::default()).expect("new");
        let (mut state, mut ids, mut before) = (State::default(), 0, State::default());
        for _ in 0..20 {
            before = state.clone();
            let record = happening(&state, &mut random, &mut ids, &[0, 1]);
            state.apply(&record).expect("possible");
            writers[0].commit(&[record]).expect("a disk");
        }
        let names = disk.list().expect("listed");
        let name = &names[random.random_range(0..names.len())];
        let len = disk.read(name).expect("there").len();
        disk.flip(name, random.random_range(0..len));
        match recover(&disk) {
            // Only in the last batch damage looks like a power loss during its write.
            Ok(recovered) => {
                torn += 1;
                assert!(name.ends_with("segment"), "{name}");
                assert_eq!(recovered.state, before);
            }
            Err(JournalError::Damaged { .. }) => damaged += 1,
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert!(damaged > 200 && torn > 2, "{damaged} damaged, {torn} torn");
}

#[test]
fn a_missing_file_is_named() {
    for missing in ["00000001-0000-00000000.snapshot", "00000001.epoch"] {
        let disk = SimulatedDisk::default();
        let mut writers = begin(&disk, 0, vec![State::default()], Limits::default()).expect("new");
        writers[0].commit(&[Record::Created { set: 0, packet: 1, amount: 5 }]).expect("a disk");
        disk.remove(missing).expect("there");
        match recover(&disk) {
            Err(JournalError::Missing(name)) => assert_eq!(name, missing),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_disk_that_is_full_for_long_loses_nothing_and_leaves_no_litter() {
    let disk = SimulatedDisk::default();
    let mut writers = begin(&disk, 0, vec![State::default()], Limits::default()).expect("new");
    let created = |packet| Record::Created { set: 0, packet, amount: 5 };
    writers[0].commit(&[created(1)]).expect("room");
    disk.set_full(true);
    for _ in 0..20 {
        assert!(matches!(writers[0].commit(&[created(2)]), Err(CommitError::Disk(_))));
        assert!(writers[0].has_failed());
    }
    assert!(disk.list().expect("listed").len() <= 5, "{:?}", disk.list());
    assert_eq!(recover(&disk).expect("readable").state.queued(), 1);
    disk.set_full(false);
    assert_eq!(writers[0].commit(&[created(2)]).expect("room"), 2);
    let recovered = recover(&disk).expect("readable");
    assert_eq!(recovered.state.queued(), 2);
    let mut names = disk.list().expect("listed");
    names.retain(|name| !name.ends_with("epoch"));
    assert_eq!(names.len(), 2, "a snapshot and a segment: {names:?}");
}

/// Names and bytes of all files.
fn contents(disk: &SimulatedDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list().expect("listed");
    names.into_iter().map(|name| (name.clone(), disk.read(&name).expect("there"))).collect()
}

#[test]
fn a_batch_that_contradicts_is_not_written_and_a_restart_goes_on_without_it() {
    let disk = SimulatedDisk::default();
    let mut writers = begin(&disk, 0, vec![State::default()], Limits::default()).expect("new");
    let created = |packet| Record::Created { set: 0, packet, amount: 5 };
    writers[0].commit(&[created(1)]).expect("room");
    let before = contents(&disk);
    let wrong = [created(2), Record::Granted { set: 0, packet: 2, amount: 5, user: 1 }];
    assert!(matches!(writers[0].commit(&wrong), Err(CommitError::Contradiction(_))));
    assert_eq!(contents(&disk), before);
    let recovered = recover(&disk).expect("readable");
    assert_eq!((recovered.state.queued(), recovered.state.next_shaken), (1, 2));
    assert_eq!(audit(&disk, |_| {}).expect("readable").faults, Vec::<String>::new());
    begin(&disk, 1, vec![recovered.state], Limits::default()).expect("it goes on");
}

#[test]
fn a_shard_without_records_has_no_segment() {
    let disk = SimulatedDisk::default();
    let shares = vec![State::default(); 3];
    let limits = Limits { keep_history: true, ..Limits::default() };
    let mut writers = begin(&disk, 0, shares, limits).expect("new");
    let segments = || {
        let mut names = disk.list().expect("listed");
        names.retain(|name| name.ends_with(".segment"));
        names
    };
    assert_eq!(segments(), Vec::<String>::new());
    writers[1].commit(&[Record::Created { set: 0, packet: 1, amount: 5 }]).expect("room");
    assert_eq!(segments(), ["00000001-0001-00000000.segment"]);
    assert_eq!(recover(&disk).expect("readable").state.queued(), 1);
    let audit = audit(&disk, |_| {}).expect("readable");
    assert_eq!((audit.faults.len(), audit.complete, audit.records), (0, true, 1));
}

#[test]
fn the_audit_knows_lives_of_ids_that_have_gone_round() {
    let created = Record::Created { set: 0, packet: 5, amount: 5 };
    let granted = Record::Granted { set: 0, packet: 5, amount: 5, user: 1 };
    let part = |part: u32| Record::Next { shaken: part << 30, sent: 0 };
    for (between, faults) in [(vec![part(1), part(2), part(3)], 0), (vec![], 1)] {
        let disk = SimulatedDisk::default();
        let mut state = State::default();
        for epoch in 0..2 {
            let limits = Limits { keep_history: true, ..Limits::default() };
            let mut writers = begin(&disk, epoch, vec![state], limits).expect("new");
            let life = [created.clone(), granted.clone()];
            writers[0].commit(&life).expect("room");
            writers[0].commit(&between).expect("room");
            state = recover(&disk).expect("readable").state;
        }
        let audit = audit(&disk, |_| {}).expect("readable");
        assert_eq!(audit.faults.len(), faults, "{:?}", audit.faults);
        assert_eq!((audit.grants.count, audit.complete), (2, true));
    }
}
