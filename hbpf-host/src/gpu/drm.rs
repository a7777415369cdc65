//! AMD's and Intel's GPUs, by what the kernel's drivers amdgpu, xe and i915 show under `/sys`.
//!
//! What a driver or a GPU does not show is unknown. Reading some of these files wakes a GPU's firmware, which can take its
//! time: so they are read by the reader, as NVIDIA's library is. Who uses the GPUs stands under `/proc`; see
//! [`crate::process`]. `pcie_bw` is not read: the driver counts for a second while one waits.

use std::fs;
use std::path::{Path, PathBuf};

use hbpf_core::label::Label;
use hbpf_core::snapshot::Gpu;

use crate::process::files;

/// Most GPUs.
const MAX_CARDS: usize = 64;

/// Longest file that is read here: each holds a number or a short line.
const MAX_BYTES: usize = 256;

/// The drivers, and whose GPUs they drive.
const DRIVERS: [(&str, &str); 3] = [("amdgpu", "amd"), ("xe", "intel"), ("i915", "intel")];

/// Whether the driver of this GPU tells in `/proc` who uses it.
pub(super) fn is_told_in_proc(gpu: &Gpu) -> bool {
    DRIVERS.iter().any(|(_, vendor)| gpu.vendor.as_str() == *vendor)
}

/// A GPU, found once.
#[derive(Clone, Debug)]
pub(super) struct Card {
    /// `/sys/class/drm/cardN`
    directory: PathBuf,
    /// The PCI device's.
    device: PathBuf,
    /// Of its sensors; the kernel numbers them anew at each start.
    sensors: Option<PathBuf>,
    driver: &'static str,
    identity: Gpu,
}

/// All GPUs with these drivers. `sys` is `/sys`, but in tests.
pub(super) fn cards(sys: &Path) -> Vec<Card> {
    let folder = sys.join("class/drm");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.strip_prefix("card").is_some_and(|number| number.parse::<u32>().is_ok()))
        .collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    names.iter().take(MAX_CARDS).filter_map(|name| Card::find(folder.join(name))).collect()
}

impl Card {
    fn find(directory: PathBuf) -> Option<Self> {
        let device = directory.join("device");
        let driver = fs::read_link(device.join("driver")).ok()?;
        let driver = driver.file_name()?.to_str()?;
        let (driver, vendor) = DRIVERS.into_iter().find(|(name, _)| *name == driver)?;
        // The link to the PCI device ends in its place on the bus.
        let place = fs::canonicalize(&device).ok()?.file_name()?.to_str()?.to_owned();
        let sensors = fs::read_dir(device.join("hwmon")).ok().and_then(|mut all| Some(all.next()?.ok()?.path()));
        let named = text(&device.join("product_name")).filter(|name| !name.is_empty());
        let number = text(&device.join("device")).unwrap_or_default();
        let maker = if vendor == "amd" { "AMD" } else { "Intel" };
        let name = named.unwrap_or_else(|| format!("{maker} {}", number.trim_start_matches("0x")));
        let uuid = text(&device.join("unique_id")).filter(|id| !id.is_empty()).unwrap_or_else(|| place.clone());
        let identity = Gpu {
            uuid: Label::new(&uuid),
            name: Label::new(&name),
            vendor: vendor.into(),
            driver: Some(driver.into()),
            pci_bus_id: Some(Label::new(&place)),
            ..Gpu::default()
        };
        Some(Self { directory, device, sensors, driver, identity })
    }

    /// What it is called, and where it is.
    pub(super) fn title(&self) -> String {
        let place = self.identity.pci_bus_id.as_deref().unwrap_or_default();
        format!("{} ({}, {place})", self.identity.name, self.driver)
    }

    /// Its numbers of now.
    pub(super) fn read(&self, index: u32) -> Gpu {
        let of_device = |name: &str| number(&self.device.join(name));
        let sensor = |name: &str| self.sensors.as_ref().and_then(|sensors| number(&sensors.join(name)));
        // Sensors count in millionths of a watt and of a joule, thousandths of a degree, and hertz.
        let millionths = |value: u64| value as f64 / 1e6;
        let megahertz = |hertz: u64| u32::try_from(hertz / 1_000_000).unwrap_or(u32::MAX);
        Gpu {
            index,
            utilization_percent: of_device("gpu_busy_percent").map(|percent| percent as f64),
            memory_utilization_percent: of_device("mem_busy_percent").map(|percent| percent as f64),
            memory_used_bytes: of_device("mem_info_vram_used"),
            memory_total_bytes: of_device("mem_info_vram_total"),
            power_watts: sensor("power1_average").or_else(|| sensor("power1_input")).map(millionths),
            power_limit_watts: sensor("power1_cap").or_else(|| sensor("power1_max")).map(millionths),
            energy_joules_total: sensor("energy1_input").map(millionths),
            temperature_celsius: sensor("temp1_input")
                .or_else(|| sensor("temp2_input"))
                .map(|value| value as f64 / 1e3),
            sm_clock_mhz: match self.driver {
                "amdgpu" => sensor("freq1_input").map(megahertz),
                "xe" => number(&self.device.join("tile0/gt0/freq0/act_freq")).and_then(|mhz| mhz.try_into().ok()),
                _ => number(&self.directory.join("gt_act_freq_mhz")).and_then(|mhz| mhz.try_into().ok()),
            },
            memory_clock_mhz: sensor("freq2_input").map(megahertz),
            ecc_uncorrected_total: self.uncorrected_errors(),
            ..self.identity.clone()
        }
    }

    /// amdgpu, of GPUs with ECC: `ue: N` and `ce: N` of the memory controller.
    fn uncorrected_errors(&self) -> Option<u64> {
        let lines = text(&self.device.join("ras/umc_err_count"))?;
        lines.lines().find_map(|line| line.strip_prefix("ue:")?.trim().parse().ok())
    }
}

fn text(path: &Path) -> Option<String> {
    let bytes = files::read(path, MAX_BYTES).ok()?.bytes;
    Some(String::from_utf8_lossy(bytes.trim_ascii()).into_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A tree as the kernel makes it: `class/drm/cardN` leads to the device on the bus.
    fn tree(card: &str, driver: &str, place: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let device = sys.path().join("devices/pci0000:00").join(place);
        fs::create_dir_all(device.join("drm").join(card)).unwrap();
        fs::create_dir_all(sys.path().join("bus/pci/drivers").join(driver)).unwrap();
        fs::create_dir_all(sys.path().join("class/drm")).unwrap();
        symlink(sys.path().join("bus/pci/drivers").join(driver), device.join("driver")).unwrap();
        symlink(&device, device.join("drm").join(card).join("device")).unwrap();
        symlink(device.join("drm").join(card), sys.path().join("class/drm").join(card)).unwrap();
        for (name, contents) in files {
            let path = device.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        sys
    }

    #[test]
    fn an_instinct_shows_all_it_has() {
        let files = [
            ("product_name", "AMD Instinct MI300X\n"),
            ("device", "0x74a1\n"),
            ("unique_id", "4a1c0c7a6bd24ac4\n"),
            ("gpu_busy_percent", "97\n"),
            ("mem_busy_percent", "41\n"),
            ("mem_info_vram_total", "206141652992\n"),
            ("mem_info_vram_used", "180000000000\n"),
            ("ras/umc_err_count", "ue: 2\nce: 17\n"),
            ("hwmon/hwmon5/power1_average", "612000000\n"),
            ("hwmon/hwmon5/power1_cap", "750000000\n"),
            ("hwmon/hwmon5/temp1_input", "58000\n"),
            ("hwmon/hwmon5/freq1_input", "2100000000\n"),
            ("hwmon/hwmon5/freq2_input", "1300000000\n"),
        ];
        let sys = tree("card1", "amdgpu", "0000:03:00.0", &files);
        let cards = cards(sys.path());
        let gpu = cards[0].read(4);
        assert_eq!((gpu.index, gpu.name.as_str(), gpu.vendor.as_str()), (4, "AMD Instinct MI300X", "amd"));
        assert_eq!((gpu.uuid.as_str(), gpu.pci_bus_id.as_deref()), ("4a1c0c7a6bd24ac4", Some("0000:03:00.0")));
        assert_eq!(cards[0].title(), "AMD Instinct MI300X (amdgpu, 0000:03:00.0)");
        assert_eq!((gpu.utilization_percent, gpu.memory_utilization_percent), (Some(97.0), Some(41.0)));
        assert_eq!((gpu.memory_used_bytes, gpu.memory_total_bytes), (Some(180_000_000_000), Some(206_141_652_992)));
        assert_eq!(
            (gpu.power_watts, gpu.power_limit_watts, gpu.temperature_celsius),
            (Some(612.0), Some(750.0), Some(58.0))
        );
        assert_eq!((gpu.sm_clock_mhz, gpu.memory_clock_mhz), (Some(2100), Some(1300)));
        assert_eq!((gpu.ecc_uncorrected_total, gpu.energy_joules_total), (Some(2), None));
    }

    #[test]
    fn intels_drivers_show_clocks_and_energy() {
        let files = [
            ("device", "0x0bda\n"),
            ("tile0/gt0/freq0/act_freq", "1550\n"),
            ("hwmon/hwmon2/energy1_input", "123456789\n"),
            ("hwmon/hwmon2/power1_max", "600000000\n"),
            ("hwmon/hwmon2/temp2_input", "61000\n"),
        ];
        let gpu = cards(tree("card0", "xe", "0000:4d:00.0", &files).path())[0].read(0);
        assert_eq!(
            (gpu.name.as_str(), gpu.uuid.as_str(), gpu.vendor.as_str()),
            ("Intel 0bda", "0000:4d:00.0", "intel")
        );
        assert_eq!((gpu.sm_clock_mhz, gpu.energy_joules_total), (Some(1550), Some(123.456_789)));
        assert_eq!((gpu.power_limit_watts, gpu.power_watts, gpu.temperature_celsius), (Some(600.0), None, Some(61.0)));
        assert_eq!(gpu.utilization_percent, None, "it stands beside the processes");
        let sys = tree("card0", "i915", "0000:00:02.0", &[("drm/card0/gt_act_freq_mhz", "1100\n")]);
        assert_eq!(cards(sys.path())[0].read(0).sm_clock_mhz, Some(1100));
    }

    #[test]
    fn others_and_odd_files_are_passed_over() {
        assert!(cards(Path::new("/nonexistent")).is_empty());
        for driver in ["nvidia", "ast", "virtio-pci"] {
            assert!(cards(tree("card0", driver, "0000:00:01.0", &[]).path()).is_empty(), "{driver}");
        }
        for name in ["card0-DP-1", "renderD128", "version", "card", "card-1"] {
            assert!(cards(tree(name, "amdgpu", "0000:00:01.0", &[]).path()).is_empty(), "{name}");
        }
        let odd = [
            ("gpu_busy_percent", "-1\n"),
            ("mem_info_vram_used", "99999999999999999999\n"),
            ("ras/umc_err_count", "ue\n"),
            ("product_name", "\u{1b}]52;c;x\u{7}\n"),
        ];
        let gpu = cards(tree("card0", "amdgpu", "0000:03:00.0", &odd).path())[0].read(0);
        assert_eq!((gpu.utilization_percent, gpu.memory_used_bytes), (None, None));
        assert_eq!(gpu.ecc_uncorrected_total, None);
        assert!(!gpu.name.contains('\u{1b}'));
    }
}
