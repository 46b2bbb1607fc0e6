//! What a run hears: the lines of its programs, read, and what its fleet says.

use fleet::link::FromFleet;
use host::program::Who;
use serde::de::DeserializeOwned;

/// What is heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A line of the server.
    Server(service::Line),
    /// A line of a client.
    Client(u32, workload::Line),
    /// A line of a hog.
    Hog(u32, host::hog::Line),
    /// A line that makes no sense.
    Nonsense(Who, String),
    /// The output of a program has ended.
    Silence(Who),
    /// Something of a host of the fleet.
    Fleet(FromFleet),
}

impl Heard {
    /// A line of a program, or the end of its output.
    pub(crate) fn line(who: Who, line: Option<&str>) -> Self {
        line.map_or(Self::Silence(who), |line| read(who, line))
    }

    /// Something that a fleet says; the lines of its programs are read.
    pub(crate) fn of_fleet(news: FromFleet) -> Self {
        match news {
            FromFleet::Line(who, line) => read(who, &line),
            FromFleet::Silence(who) => Self::Silence(who),
            news => Self::Fleet(news),
        }
    }
}

fn read(who: Who, line: &str) -> Heard {
    fn parsed<T: DeserializeOwned>(line: &str) -> Option<T> {
        serde_json::from_str(line).ok()
    }
    let heard = match who {
        Who::Server => parsed(line).map(Heard::Server),
        Who::Client(number) => parsed(line).map(|line| Heard::Client(number, line)),
        Who::Hog(fault) => parsed(line).map(|line| Heard::Hog(fault, line)),
    };
    heard.unwrap_or_else(|| Heard::Nonsense(who, line.to_owned()))
}
