//! Packets held back on purpose: they leave through a TUN interface instead of going up the stack,
//! and come back through it when their time is over.
//!
//! Owns: the interface and the thread that holds them. Must not know: who diverts them there.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use platform::{NANOS_PER_SECOND, monotonic_ns};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsRawFd, OwnedFd};

use host::links::{bring_up, index};
use host::namespace::{Netns, write};

/// Packets held at a time: a second of 60,000. Those beyond go on at once, and are counted.
const MOST: usize = 65_536;

/// Packets that wait in the interface: half a second of 60,000, should the thread not run.
const INTERFACE_QUEUE: i32 = 32_768;

/// The largest packet: segments are made small on their way out of the stack.
const PACKET: usize = 2048;

/// Packets reported at a time, and how long they wait to be reported.
const BATCH: usize = 1024;
const REPORT_NS: u64 = NANOS_PER_SECOND / 5;

/// Reports that wait for the coordinator, which reads them every second: four seconds of 60,000
/// packets.
const REPORTS: usize = 256;

/// A packet that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// When it came.
    pub(super) t: u64,
    /// When it went on.
    pub(super) end_ns: u64,
    /// The client's end of its connection.
    pub(super) flow: SocketAddrV4,
    /// The first byte of its data.
    pub(super) sequence: u32,
    /// Bytes of data.
    pub(super) payload: u32,
}

/// What a holder reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HoldReport {
    /// Packets that went on, one by one.
    pub(super) holds: Vec<Hold>,
    /// How many these are, with those of reports that found the queue full.
    pub(super) count: u64,
    /// How long they were held together.
    pub(super) ns: u64,
    /// Packets that found too many others, or could not be put back.
    pub(super) failed: u64,
    /// The holder has ended.
    pub(super) over: bool,
}

/// A thread that holds packets. Ends when it is told to, or dropped, once it holds none.
pub(super) struct Holder {
    stop: Arc<OwnedFd>,
    /// The number of its interface.
    pub(super) interface: u32,
    /// Its reports.
    pub(super) reports: Receiver<HoldReport>,
}

impl Holder {
    /// Starts one in a namespace, for the packets of a direction.
    pub(super) fn start(
        namespace: &Netns,
        fault: u32,
        hold_ns: u64,
        port: u16,
    ) -> io::Result<Self> {
        let name = format!("labhold{fault}");
        let (tun, interface) = namespace.run(|| tun(&name))??;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let stopped = Arc::clone(&stop);
        let (sender, reports) = sync_channel(REPORTS);
        std::thread::Builder::new().name("lab-hold".to_owned()).spawn(move || {
            // Packets must go on in time, though this process keeps in the background; root may
            // have this priority.
            let _ = platform::set_priority(None, platform::Priority::Normal);
            // SAFETY: a plain system call; on Linux 0 names the calling thread.
            let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
            let (held, report) = (VecDeque::new(), HoldReport::default());
            Queue { tun, hold_ns, port, held, report, reported_ns: 0 }.run(&stopped, &sender);
        })?;
        Ok(Self { stop, interface, reports })
    }

    /// Tells it to end.
    pub(super) fn stop(&self) {
        // It is full only when it was told so often already.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes a TUN interface in the calling thread's namespace, and switches it on.
fn tun(name: &str) -> io::Result<(File, u32)> {
    let failed = |what: &str| {
        let error = io::Error::last_os_error();
        io::Error::new(error.kind(), format!("interface {name} {what}: {error}"))
    };
    let file = File::options().read(true).write(true).open("/dev/net/tun").map_err(|error| {
        io::Error::new(error.kind(), format!("/dev/net/tun, which Delay needs: {error}"))
    })?;
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: a zeroed request is valid; the name fits with its final zero; the kernel reads and
    // writes within the request.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        if libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) < 0 {
            return Err(failed("cannot be made"));
        }
        request.ifr_ifru.ifru_metric = INTERFACE_QUEUE;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN, &raw mut request) < 0 {
            return Err(failed("cannot have a longer queue"));
        }
    }
    // What comes back has a source address that is reached another way.
    write("net.ipv4.conf.all.rp_filter", "0")?;
    write(&format!("net.ipv4.conf.{name}.rp_filter"), "0")?;
    bring_up(name)?;
    rustix::io::ioctl_fionbio(&file, true)?;
    Ok((file, index(name)?))
}

/// What a packet is about.
fn hold_of(packet: &[u8], port: u16, t: u64) -> Option<Hold> {
    let word = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?));
    let header = usize::from(packet.first()? & 15) * 4;
    let (source, destination) = (word(header)?, word(header + 2)?);
    let (address, client_port) =
        if destination == port { (long(12)?, source) } else { (long(16)?, destination) };
    let data = header + usize::from(packet.get(header + 12)? >> 4) * 4;
    Some(Hold {
        t,
        end_ns: 0,
        flow: SocketAddrV4::new(Ipv4Addr::from(address), client_port),
        sequence: long(header + 4)?,
        payload: u32::from(word(2)?).saturating_sub(data as u32),
    })
}

/// Packets on their way, the one that goes on next in front: all are held for the same time.
struct Queue {
    tun: File,
    hold_ns: u64,
    port: u16,
    held: VecDeque<(u64, Box<[u8]>)>,
    /// What is to be reported, and when the last report was sent.
    report: HoldReport,
    reported_ns: u64,
}

impl Queue {
    fn run(mut self, stopped: &OwnedFd, sender: &SyncSender<HoldReport>) {
        let mut stopping = false;
        loop {
            self.read();
            self.release();
            let now_ns = monotonic_ns();
            if self.report.holds.len() >= BATCH || self.reported_ns + REPORT_NS <= now_ns {
                self.send(now_ns, sender);
            }
            if stopping && self.held.is_empty() {
                break;
            }
            let due_ns = self.held.front().map(|(t, _)| t + self.hold_ns);
            let report_ns = (self.report.count > 0).then_some(self.reported_ns + REPORT_NS);
            let next_ns = due_ns.into_iter().chain(report_ns).min();
            let left = next_ns.map(|at_ns| at_ns.saturating_sub(now_ns)).map(|ns| Timespec {
                tv_sec: (ns / NANOS_PER_SECOND).cast_signed(),
                tv_nsec: (ns % NANOS_PER_SECOND).cast_signed(),
            });
            let mut ready =
                [PollFd::new(&self.tun, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
            // Interrupted: looks again.
            let _ = poll(&mut ready, left.as_ref());
            if ready[1].revents().contains(PollFlags::IN) {
                stopping = true;
                // Read, so that it does not wake again; what is held still waits for its time.
                let _ = rustix::io::read(stopped, &mut [0; 8]);
            }
        }
        // The last report waits for room in the queue, unless the run is over.
        let _ = sender.send(HoldReport { over: true, ..self.report });
    }

    /// Reports what has gone on. What finds the queue full keeps its sums.
    fn send(&mut self, now_ns: u64, sender: &SyncSender<HoldReport>) {
        self.reported_ns = now_ns;
        if self.report.count == 0 && self.report.failed == 0 {
            return;
        }
        if let Err(back) = sender.try_send(std::mem::take(&mut self.report)) {
            let (TrySendError::Full(back) | TrySendError::Disconnected(back)) = back;
            self.report = HoldReport { holds: Vec::new(), ..back };
        }
    }

    /// Takes what has come.
    fn read(&mut self) {
        let mut packet = [0; PACKET];
        while let Ok(size) = self.tun.read(&mut packet) {
            let t = monotonic_ns();
            let packet = &packet[..size];
            // What the kernel itself sends on every interface (IPv6 looks for neighbours) was not
            // diverted.
            if packet.first().is_none_or(|first| first >> 4 != 4) {
                continue;
            }
            if self.held.len() < MOST {
                self.held.push_back((t, packet.into()));
            } else {
                self.report.failed += 1;
                // It goes on at once; the kernel takes it or drops it.
                let _ = self.tun.write(packet);
            }
        }
    }

    /// Puts back what has waited long enough.
    fn release(&mut self) {
        while let Some((t, _)) = self.held.front()
            && t + self.hold_ns <= monotonic_ns()
            && let Some((t, packet)) = self.held.pop_front()
        {
            let hold = hold_of(&packet, self.port, t);
            // Before the write: the other end is woken within it.
            let end_ns = monotonic_ns();
            match (self.tun.write(&packet), hold) {
                (Ok(_), Some(hold)) => {
                    self.report.count += 1;
                    self.report.ns += end_ns - t;
                    self.report.holds.push(Hold { end_ns, ..hold });
                }
                _ => self.report.failed += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_says_whose_it_is() {
        let mut packet = vec![0_u8; 64];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&64_u16.to_be_bytes());
        packet[12..16].copy_from_slice(&[10, 253, 1, 1]);
        packet[16..20].copy_from_slice(&[10, 253, 0, 1]);
        packet[20..22].copy_from_slice(&1030_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&8888_u16.to_be_bytes());
        packet[24..28].copy_from_slice(&77_u32.to_be_bytes());
        packet[32] = 0x50;
        let hold = hold_of(&packet, 8888, 5).expect("a packet");
        assert_eq!(hold.flow, "10.253.1.1:1030".parse().expect("an address"));
        assert_eq!((hold.t, hold.sequence, hold.payload), (5, 77, 24));
        packet[20..22].copy_from_slice(&8888_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&1031_u16.to_be_bytes());
        let back = hold_of(&packet, 8888, 5).expect("a packet");
        assert_eq!(back.flow, "10.253.0.1:1031".parse().expect("an address"));
        assert_eq!(hold_of(&packet[..30], 8888, 5), None);
    }
}
