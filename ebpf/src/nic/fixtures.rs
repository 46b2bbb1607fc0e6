//! Cards for tests: the counters of real ones, from the files in `tests/nic`.

use std::collections::BTreeMap;

use super::{Driver, NicReading, assign, names};

/// The files, each with the driver that it is of.
pub(super) const FILES: [(&str, &str); 19] = [
    ("be2net", "be2net"),
    ("bnx2", "bnx2"),
    ("bnx2x", "bnx2x"),
    ("ena", "ena"),
    ("ena-new", "ena"),
    ("enic", "enic"),
    ("hv_netvsc", "hv_netvsc"),
    ("i40e", "i40e"),
    ("i40e-v2.3.2k", "i40e"),
    ("iavf", "iavf"),
    ("ice", "ice"),
    ("ixgbe", "ixgbe"),
    ("mlx5_core", "mlx5_core"),
    ("r8169", "r8169"),
    ("sfc", "sfc"),
    ("tg3", "tg3"),
    ("virtio_net", "virtio_net"),
    ("virtio_net-6.9plus", "virtio_net"),
    ("vmxnet3", "vmxnet3"),
];

/// A card: its driver, the driver's counters and counters of the kernel's.
pub(super) fn card(
    driver: &str,
    own: &[(&str, u64)],
    kernel: &[(&'static str, u64)],
) -> NicReading {
    let raw: Vec<_> = own.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let (whole, queues) = assign(names::sort(raw));
    let mut link: BTreeMap<_, _> =
        super::link::NAMES.into_iter().map(|name| (name, Some(0))).collect();
    link.extend(kernel.iter().map(|(name, value)| (*name, Some(*value))));
    NicReading {
        name: "eth0".to_owned(),
        link,
        driver: Some(Driver { driver: driver.to_owned(), ..Driver::default() }),
        driver_counters: Some(whole),
        queues: Some(queues),
        ..NicReading::default()
    }
}

/// A file of `tests/nic`, as `ethtool -S` printed it; every value is the number of its line.
pub(super) fn of_file(driver: &str, file: &str) -> NicReading {
    let path = format!("{}/tests/nic/{file}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    let own: Vec<_> = text
        .lines()
        .filter(|line| *line != "NIC statistics:")
        .map(|line| {
            // ethtool sets every name in by five.
            let (name, value) = line.rsplit_once(':').expect(line);
            let name = name.strip_prefix("     ").unwrap_or(name);
            (name, value.trim().parse().expect(line))
        })
        .collect();
    card(driver, &own, &[("rx_dropped", 1_000_000), ("multicast", 1_000_000)])
}
