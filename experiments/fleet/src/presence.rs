//! Whether hosts are there, as their beats tell, and who leads them.
//!
//! Time that the coordinator itself missed, since it was stopped or had no CPU, is nobody's
//! silence. Must not know: what becomes of the run.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Client, connection::State};
use futures_util::StreamExt;
use tokio::time::{Instant, MissedTickBehavior};

use crate::news::{FromFleet, HostNews, Listener};
use crate::orders::Sender;
use crate::protocol::{ALL_BEATS, Beat};

/// A host that is silent for this long is lost: four beats missed, and within the five seconds
/// that are promised.
const LOST: Duration = Duration::from_millis(4_200);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// A look that comes later than this after the one before was held up: the time counts for nobody.
const HELD_UP: Duration = Duration::from_millis(600);

/// An agent that says so often that it works for no run has given up this one. Its last batch takes
/// another way than its beats, and may come later than the first of them.
const GIVEN_UP: u32 = 4;

/// What is known of the presence of a host.
struct Seen {
    last: Instant,
    session: String,
    lost: bool,
    gone: bool,
    /// How many beats in a row were not for this run.
    idle: u32,
}

/// Who is there.
struct Presence {
    sender: Sender,
    hosts: BTreeMap<String, Seen>,
    /// When silence was looked at last.
    looked: Instant,
    /// Whether no host could be heard then.
    blind: bool,
}

impl Presence {
    /// All are there, each with its session.
    fn new(sender: Sender, sessions: BTreeMap<String, String>, now: Instant) -> Self {
        let seen = |session| Seen { last: now, session, lost: false, gone: false, idle: 0 };
        let hosts = sessions.into_iter().map(|(host, session)| (host, seen(session))).collect();
        Self { sender, hosts, looked: now, blind: false }
    }

    /// A host was heard.
    fn beat(&mut self, name: &str, beat: Beat, now: Instant) -> Option<HostNews> {
        let Sender { run, epoch } = &self.sender;
        let host = self.hosts.get_mut(name)?;
        host.last = now;
        let ours = beat.run.as_ref() == Some(run);
        if let Some(leader) = beat.leader.filter(|leader| ours && leader.epoch > *epoch) {
            return Some(HostNews::TakenOver(leader));
        }
        if host.gone {
            return None;
        }
        host.idle = if ours { 0 } else { host.idle + 1 };
        let why = if beat.session != host.session {
            "its agent was started again"
        } else if host.idle >= GIVEN_UP {
            "its agent has given up the run"
        } else {
            let back = ours && std::mem::take(&mut host.lost);
            return back.then(|| HostNews::Back(name.to_owned()));
        };
        host.gone = true;
        Some(HostNews::Gone(name.to_owned(), why.to_owned()))
    }

    /// Looks who is silent; with `connected`, hosts can be heard.
    fn look(&mut self, connected: bool, now: Instant) -> Vec<HostNews> {
        let since = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        if since > HELD_UP {
            // Beats of that time may still wait to be read.
            for host in self.hosts.values_mut() {
                host.last = (host.last + since).min(now);
            }
        }
        if !connected {
            self.blind = true;
            return Vec::new();
        }
        if std::mem::take(&mut self.blind) {
            // No host could be heard: they, too, take a while to connect again.
            self.hosts.values_mut().for_each(|host| host.last = now);
        }
        let mut news = Vec::new();
        for (name, host) in &mut self.hosts {
            if !host.lost && !host.gone && now.saturating_duration_since(host.last) > LOST {
                host.lost = true;
                news.push(HostNews::Lost(name.clone()));
            }
        }
        news
    }
}

/// Watches hosts by their sessions, and tells what becomes of them.
pub(crate) async fn watch(
    client: Client,
    sender: Sender,
    sessions: BTreeMap<String, String>,
    heard: Listener,
) -> Result<(), async_nats::Error> {
    let mut beats = client.subscribe(ALL_BEATS).await?;
    let mut presence = Presence::new(sender, sessions, Instant::now());
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let news = tokio::select! {
            Some(message) = beats.next() => {
                let name = message.subject.rsplit('.').next().unwrap_or_default();
                let Ok(beat) = serde_json::from_slice::<Beat>(&message.payload) else { continue };
                presence.beat(name, beat, Instant::now()).into_iter().collect()
            }
            _ = look.tick() => {
                presence.look(client.connection_state() == State::Connected, Instant::now())
            }
        };
        news.into_iter().for_each(|news| heard(FromFleet::Host(news)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::{Epoch, Leader};
    use crate::names::RunName;

    fn run(name: &str) -> RunName {
        name.to_owned().try_into().expect("a name")
    }

    fn presence(start: Instant) -> Presence {
        let sender = Sender { run: run("r"), epoch: Epoch::default().next(5) };
        let sessions = ["a", "b"].map(|host| (host.to_owned(), format!("of {host}")));
        Presence::new(sender, sessions.into(), start)
    }

    fn beat(host: &str) -> Beat {
        Beat { session: format!("of {host}"), run: Some(run("r")), ..Beat::default() }
    }

    fn lost(news: &[HostNews]) -> Vec<&str> {
        let name = |news: &HostNews| match news {
            HostNews::Lost(name) => name.clone(),
            other => panic!("{other:?}"),
        };
        let names: Vec<String> = news.iter().map(name).collect();
        ["a", "b"].into_iter().filter(|host| names.contains(&(*host).to_owned())).collect()
    }

    /// Looks and beats of `a` go on as they should from one instant to another, in steps of a look.
    fn goes_on(presence: &mut Presence, start: Instant, from_ms: u64, to_ms: u64) {
        for ms in (from_ms..=to_ms).step_by(200) {
            let now = start + Duration::from_millis(ms);
            if ms % 1000 == 0 {
                assert!(presence.beat("a", beat("a"), now).is_none());
            }
            let news = presence.look(true, now);
            assert!(news.is_empty(), "{news:?} after {ms} ms");
        }
    }

    #[test]
    fn a_silent_host_is_lost_and_one_that_speaks_is_not() {
        let start = Instant::now();
        let mut presence = presence(start);
        goes_on(&mut presence, start, 0, 4_200);
        let late = start + Duration::from_millis(4_400);
        assert_eq!(lost(&presence.look(true, late)), ["b"]);
        assert!(
            matches!(presence.beat("b", beat("b"), late), Some(HostNews::Back(host)) if host == "b")
        );
        assert!(presence.beat("stranger", beat("stranger"), late).is_none());
    }

    #[test]
    fn time_that_the_coordinator_missed_is_nobodys_silence() {
        for stopped_s in [1, 5, 3_600] {
            let start = Instant::now();
            let mut presence = presence(start);
            goes_on(&mut presence, start, 0, 2_000);
            // Stopped: the first look comes before any of the beats that wait is read.
            let awake = start + Duration::from_secs(2 + stopped_s);
            assert!(presence.look(true, awake).is_empty(), "{stopped_s} s");
            // What a host was silent before counts on, and so does what it is silent from now on.
            let mut missed_after = None;
            for ms in (200..=5_000).step_by(200) {
                let now = awake + Duration::from_millis(ms);
                if ms % 1000 == 0 {
                    presence.beat("a", beat("a"), now);
                }
                let news = presence.look(true, now);
                if !news.is_empty() {
                    assert_eq!(lost(&news), ["b"]);
                    missed_after = Some(ms);
                    break;
                }
            }
            // Of the 4.2 s it had been silent for 2 before.
            assert_eq!(missed_after, Some(2_400), "{stopped_s} s");
        }
    }

    #[test]
    fn a_host_that_follows_a_later_coordinator_says_so() {
        let now = Instant::now();
        let mut presence = presence(now);
        let leader = |epoch| Some(Leader { epoch, who: "another".to_owned() });
        let own = presence.sender.epoch;
        let of = |epoch| Beat { leader: leader(epoch), ..beat("a") };
        assert!(presence.beat("a", of(own), now).is_none());
        assert!(presence.beat("a", of(Epoch::default()), now).is_none());
        let news = presence.beat("a", of(own.next(0)), now);
        assert!(matches!(news, Some(HostNews::TakenOver(leader)) if leader.who == "another"));
    }
}
