//! Lines and messages of JSON: what programs are told, what they say, and what agents and a
//! coordinator tell each other. What was read and written again reads as the same.

use std::fmt::Debug;

use fleet::protocol::{Answer, Ask, Batch, Beat, Card, Pulse, What};
use platform::DescriptorLimits;
use report::live::RunCommand;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Users of a run.
const USERS: u32 = 1_000;

/// Descriptors of a usual machine.
const LIMITS: DescriptorLimits = DescriptorLimits { soft: 1024, hard: 1 << 20 };

/// What bytes say, if they say something. It is the same when it is written and read again.
fn read<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => {
            drop(error.to_string());
            return None;
        }
    };
    let text = serde_json::to_string(&value).expect("JSON");
    let again: T = serde_json::from_str(&text).expect("it reads what it wrote");
    // Decimal digits of a float may be read a bit apart, but not worse and worse.
    let settled = serde_json::to_string(&again).expect("JSON");
    let third: T = serde_json::from_str(&settled).expect("it reads what it wrote");
    assert!(again == third || text == settled, "{again:?} became {third:?}");
    Some(value)
}

/// Commands to a server and to a client, and their configurations.
pub(crate) fn commands(bytes: &[u8]) {
    let _ = read::<service::Command>(bytes);
    if let Some(workload::Command::Phase(phase)) = read(bytes) {
        let _ = phase.check();
    }
    if let Some(config) = read::<service::Config>(bytes) {
        drop(config.resolve(&[0, 1], LIMITS));
    }
    if let Some(config) = read::<workload::Config>(bytes) {
        drop(config.resolve(&[0, 1], LIMITS, (32_768, 60_999)));
    }
}

/// Lines of a server and of a client.
pub(crate) fn lines(bytes: &[u8]) {
    let _ = read::<service::Line>(bytes);
    if let Some(workload::Line::Ended(audit)) = read(bytes) {
        drop(audit.into_receipts().map_err(|error| error.to_string()));
    }
}

/// What a page or `lab live` tells a run over its socket.
pub(crate) fn orders(bytes: &[u8]) {
    let Some(command) = read::<RunCommand>(bytes) else { return };
    match (command.check(USERS), command.for_server()) {
        (Ok(()), Some(for_server)) => {
            let line = serde_json::to_vec(&for_server).expect("JSON");
            assert!(read::<service::Command>(&line).is_some(), "a server reads {for_server:?}");
        }
        (Ok(()), None) => {}
        (Err(why), _) => assert!(!why.is_empty()),
    }
}

/// Messages between a coordinator and its agents.
pub(crate) fn agents(bytes: &[u8]) {
    if let Some(Ask::Order(order)) = read(bytes)
        && let What::Tell { line, .. } = order.what
    {
        commands(line.as_bytes());
    }
    let _ = read::<Answer>(bytes);
    let _ = read::<Batch>(bytes);
    let _ = read::<Beat>(bytes);
    let _ = read::<Card>(bytes);
    let _ = read::<Pulse>(bytes);
}
