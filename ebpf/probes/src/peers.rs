//! Losses: by client address, by flow, and as records.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{HashMap, RingBuf},
};
use events::{AddressKey, LossRecord, PeerLosses, loss};

use crate::{
    count::{atomic_add, count},
    flow::Peer,
};

/// Losses by client address.
///
/// A hash map: addresses are sparse, and losses rare. 4096 entries are twice what 17 hosts with a
/// hundred addresses each would take.
#[map]
static PEERS: HashMap<AddressKey, PeerLosses> = HashMap::with_max_entries(4096, 0);

/// Records of losses, for the run's list of events.
///
/// A ring buffer, since order matters and they are rare: at 5% loss of 60,000 requests a second
/// 256 KiB hold about one second of them. What finds it full is counted.
#[map]
static LOSSES: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Notes a loss of a connection.
#[inline(always)]
pub(crate) fn lost(peer: Peer, mut record: LossRecord) {
    if record.kind == loss::DROP
        && let Some(entry) = peer.existing()
    {
        lost_on_flow(entry);
    }
    if record.kind == loss::DROP || record.kind == loss::RETRANSMIT {
        by_address(peer.full_address(), record);
    }
    // SAFETY: no arguments.
    record.at_ns = unsafe { bpf_ktime_get_ns() };
    record.client = peer.full_address();
    record.client_port = peer.port;
    if LOSSES.output::<LossRecord>(record, 0).is_err() {
        count(|block| &mut block.records_lost);
    }
}

#[inline(always)]
fn lost_on_flow(entry: *mut events::FlowEntry) {
    // SAFETY: an aligned field of a map's value; both ends and softirqs may add to it.
    unsafe { atomic_add(&raw mut (*entry).client.losses, 1) };
}

#[inline(always)]
fn by_address(address: AddressKey, record: LossRecord) {
    if PEERS.get_ptr(address).is_none() {
        // Somebody else may insert it first: then it is there.
        let _ = PEERS.insert(address, PeerLosses { retransmits: [0; 6], drops: 0 }, NO_EXIST);
    }
    let Some(entry) = PEERS.get_ptr_mut(address) else {
        count(|block| &mut block.peers_lost);
        return;
    };
    // SAFETY: a value of the map; the kind is below the number of kinds.
    unsafe {
        if record.kind == loss::DROP {
            atomic_add(&raw mut (*entry).drops, 1);
        } else {
            let kind = (record.detail as usize).min(events::RETRANSMIT_KINDS - 1);
            atomic_add(
                (&raw mut (*entry).retransmits).cast::<u64>().add(kind),
                u64::from(record.count),
            );
        }
    }
}

/// `BPF_NOEXIST`
const NO_EXIST: u64 = 1;
