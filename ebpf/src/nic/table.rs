//! The tables of losses: which driver has which, and what the kernel's own counters say.
//!
//! A counter that another one of a list includes says so (`part_of`): a frame is counted once.

use super::{cards::*, guests::*, loss_name::*};

/// A family of drivers.
pub(crate) struct Family {
    /// As GDRVINFO names them; none: any driver that the table does not know.
    pub(crate) drivers: &'static [&'static str],
    /// Counters of the driver, of the whole interface or of a queue.
    pub(crate) names: &'static [LossName],
    /// Counters of the kernel's own that mean a loss at the card with this driver only.
    pub(crate) link: &'static [LossName],
}

/// Counters of the kernel's own, for what the driver's say nothing about. `rx_missed_errors` is
/// no part of `rx_errors` (Linux, `struct rtnl_link_stats64`).
pub(crate) const LINK: &[LossName] = &[
    rx("rx_missed_errors", MISSED),
    rx("rx_errors", "frame damaged or refused by the card"),
    within(&["rx_errors"], rx("rx_crc_errors", CRC)),
    within(&["rx_errors"], rx("rx_frame_errors", ALIGNED)),
    within(&["rx_errors"], rx("rx_length_errors", "length wrong")),
    within(&["rx_errors"], rx("rx_over_errors", "did not fit into the buffers given")),
    within(&["rx_errors"], rx("rx_fifo_errors", "overrun of the card's buffer")),
    tx("tx_errors", "not sent by the card"),
    within(&["tx_errors"], tx("tx_aborted_errors", COLLISIONS)),
    within(&["tx_errors"], tx("tx_carrier_errors", CARRIER)),
    within(&["tx_errors"], tx("tx_fifo_errors", UNDERRUN)),
    within(&["tx_errors"], tx("tx_heartbeat_errors", "no heartbeat from the transceiver")),
    within(&["tx_errors"], tx("tx_window_errors", LATE)),
];

/// The families, the one of any other driver last.
pub(crate) const FAMILIES: &[Family] = &[
    Family { drivers: &["bnx2"], names: BNX2, link: &[] },
    Family { drivers: &["bnx2x"], names: BNX2X, link: &[] },
    Family { drivers: &["e1000", "e1000e", "igb", "igc", "igbvf"], names: E1000, link: &[] },
    Family { drivers: &["ixgbe", "ixgbevf"], names: IXGBE, link: &[] },
    Family { drivers: &["i40e"], names: I40E, link: &[] },
    Family { drivers: &["iavf", "i40evf"], names: IAVF, link: &[] },
    Family { drivers: &["ice"], names: ICE, link: &[] },
    Family { drivers: &["mlx5_core", "mlx5e_rep", "mlx5_core.sf"], names: MLX5, link: &[] },
    Family { drivers: &["bnxt_en"], names: BNXT, link: &[] },
    Family { drivers: &["tg3"], names: TG3, link: &[] },
    Family { drivers: &["virtio_net"], names: VIRTIO, link: &[] },
    Family { drivers: &["veth"], names: VETH, link: VETH_LINK },
    Family { drivers: &["ena"], names: ENA, link: ENA_LINK },
    Family { drivers: &["vmxnet3"], names: VMXNET3, link: &[] },
    Family { drivers: &["r8169"], names: R8169, link: &[] },
    Family { drivers: &["sfc", "sfc_siena", "sfc_falcon"], names: SFC, link: &[] },
    Family { drivers: &["be2net"], names: BE2NET, link: &[] },
    Family { drivers: &["enic"], names: ENIC, link: &[] },
    Family { drivers: &["mlx4_en"], names: MLX4, link: &[] },
    Family { drivers: &["qede"], names: QEDE, link: &[] },
    Family { drivers: &["cxgb4"], names: CXGB4, link: &[] },
    Family { drivers: &["ionic"], names: IONIC, link: &[] },
    Family { drivers: &["atlantic"], names: ATLANTIC, link: &[] },
    Family { drivers: &["nicvf", "thunder-nicvf"], names: NICVF, link: &[] },
    Family { drivers: &["hv_netvsc"], names: NETVSC, link: &[] },
    Family { drivers: &["gve"], names: GVE, link: &[] },
    Family { drivers: &["idpf"], names: IDPF, link: IDPF_LINK },
    Family { drivers: &["tun"], names: &[], link: TUN_LINK },
    Family { drivers: &["ifb"], names: &[], link: &[] },
    Family { drivers: &[], names: &[], link: &[] },
];

/// The family of a driver.
pub(crate) fn family(driver: &str) -> &'static Family {
    let any = &FAMILIES[FAMILIES.len() - 1];
    FAMILIES.iter().find(|family| family.drivers.contains(&driver)).unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inclusion_names_a_counter_of_its_own_family_and_direction() {
        let lists = FAMILIES.iter().flat_map(|family| [family.names, family.link]).chain([LINK]);
        for list in lists {
            for (place, row) in list.iter().enumerate() {
                assert!(!list[..place].iter().any(|other| other.name == row.name), "{row:?} twice");
                for whole in row.part_of {
                    let whole = list.iter().find(|other| other.name == *whole).expect(row.name);
                    assert_eq!(whole.direction, row.direction, "{row:?}");
                    assert_eq!((whole.weight, row.weight), (Weight::Lost, Weight::Lost), "{row:?}");
                }
            }
        }
    }

    #[test]
    fn every_driver_has_one_family() {
        for family in FAMILIES {
            for driver in family.drivers {
                let having = FAMILIES.iter().filter(|other| other.drivers.contains(driver));
                assert_eq!(having.count(), 1, "{driver}");
            }
        }
        assert!(family("a driver of tomorrow").drivers.is_empty());
        assert_eq!(family("bnx2").names[0].name, "rx_fw_discards");
    }
}
