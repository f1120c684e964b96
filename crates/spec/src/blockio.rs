// SPDX-License-Identifier: Apache-2.0
//! Classes of input and output to block devices: who has written them down once names them for each
//! container (`github.com/intel/goresctrl`, `pkg/blockio`).
//!
//! ```yaml
//! Classes:
//!   slow:
//!     - Weight: 80                     # of all devices
//!     - Devices: ["/dev/sd[a-z]"]      # of these, which are looked for now
//!       ThrottleReadBps: 50M
//!       Weight: 50
//! ```
use std::{
    collections::BTreeMap,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use types::{Context as _, Error, Kind, Result};

use crate::{glob, yaml};

/// The classes of a file.
#[derive(Clone, Debug, Default)]
pub struct Classes(BTreeMap<String, Vec<Map<String, Value>>>);

/// What a class means for a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockIo {
    /// `linux.resources.blockIO` of the runtime's specification.
    pub limits: Value,
    /// What of the class has no effect, and why.
    pub warnings: Vec<String>,
}

impl Classes {
    /// Reads a file of classes.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |verb: &str| format!("failed to {verb} file {:?}", path.display().to_string());
        let text = fs_err::read_to_string(path).map_err(Error::from);
        let text = text.context(|| failed("read config"))?;
        Self::parse(&text).context(|| failed("set configuration from"))
    }

    /// Reads classes from YAML.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(all) = field(&as_map(yaml::parse(text)?)?, "Classes").cloned() else {
            return Ok(Self::default());
        };
        let rules = |(name, list): (String, Value)| match list {
            Value::Null => Ok((name, Vec::new())),
            Value::Array(list) => Ok((name, list.into_iter().map(as_map).collect::<Result<_>>()?)),
            _ => Err(Error::invalid(format!("class {name:?} is no list"))),
        };
        as_map(all)?.into_iter().map(rules).collect::<Result<_>>().map(Self)
    }

    /// What this class means on this machine, whose devices are looked for. What cannot be heeded is
    /// left out, and told.
    ///
    /// Errors: `NotFound` for a class that is not there.
    pub fn find(&self, class: &str) -> Result<BlockIo> {
        let Some(rules) = self.0.get(class) else {
            let what = format!("no OCI BlockIO parameters for class {class:?}");
            return Err(Error::said(Kind::NotFound, what));
        };
        let mut plan = Plan::default();
        for rule in rules {
            plan.add(rule);
        }
        Ok(plan.done())
    }
}

/// What may be said of devices, the name of it in specs, and what it is called there.
const PARAMETERS: [(&str, &str, &str); 5] = [
    ("Weight", "weightDevice", "weight"),
    ("ThrottleReadBps", "throttleReadBpsDevice", "rate"),
    ("ThrottleWriteBps", "throttleWriteBpsDevice", "rate"),
    ("ThrottleReadIOPS", "throttleReadIOPSDevice", "rate"),
    ("ThrottleWriteIOPS", "throttleWriteIOPSDevice", "rate"),
];

/// The weights that there are.
const WEIGHTS: std::ops::RangeInclusive<i64> = 10..=1000;

#[derive(Default)]
struct Plan {
    weight: Option<i64>,
    /// By parameter: devices, and what holds for them. What is said later counts.
    devices: [Vec<((u32, u32), i64)>; 5],
    warnings: Vec<String>,
}

impl Plan {
    fn add(&mut self, rule: &Map<String, Value>) {
        let values = PARAMETERS.map(|(name, ..)| self.value(name, field(rule, name)));
        let Some(patterns) = field(rule, "Devices").filter(|it| !it.is_null()) else {
            self.weight = values[0].or(self.weight);
            if values[1..].iter().any(Option::is_some) {
                self.warnings.push("ignoring throttling: Devices not listed".to_owned());
            }
            return;
        };
        let devices = self.block_devices(patterns);
        if devices.is_empty() {
            let what = format!("no matches on any of Devices: {patterns}, parameters ignored");
            self.warnings.push(what);
        }
        for (known, value) in self.devices.iter_mut().zip(values) {
            for (device, value) in devices.iter().filter_map(|&it| Some((it, value?))) {
                known.retain(|(other, _)| *other != device);
                known.push((device, value));
            }
        }
    }

    fn value(&mut self, name: &str, told: Option<&Value>) -> Option<i64> {
        let text = match told? {
            Value::String(text) => text.clone(),
            Value::Null => return None,
            other => other.to_string(),
        };
        if text.is_empty() {
            return None;
        }
        let (low, high) =
            if name == "Weight" { (*WEIGHTS.start(), *WEIGHTS.end()) } else { (0, i64::MAX) };
        let why = match quantity(&text) {
            None => format!("syntax error in {name:?} ({text:?})"),
            Some(value) if value < low => {
                format!("value of {name:?} ({value}) smaller than minimum ({low})")
            }
            Some(value) if value > high => {
                format!("value of {name:?} ({value}) bigger than maximum ({high})")
            }
            Some(value) => return Some(value),
        };
        self.warnings.push(format!("ignoring: {why}"));
        None
    }

    /// The numbers of the devices that are called so, now and on this machine.
    fn block_devices(&mut self, patterns: &Value) -> Vec<(u32, u32)> {
        let patterns = patterns.as_array().map_or(&[][..], Vec::as_slice);
        let mut paths: Vec<PathBuf> = Vec::new();
        for pattern in patterns.iter().filter_map(Value::as_str) {
            let found = glob::find(pattern);
            if found.is_empty() {
                let what = format!("device wildcard {pattern:?} does not match any device nodes");
                self.warnings.push(what);
            }
            paths.extend(found);
        }
        paths.sort();
        paths.dedup();
        let mut devices: Vec<(u32, u32)> = Vec::new();
        for path in paths {
            match number(&path) {
                Ok(device) if devices.contains(&device) => {}
                Ok(device) => devices.push(device),
                Err(error) => self.warnings.push(error.to_string()),
            }
        }
        devices
    }

    fn done(self) -> BlockIo {
        let mut limits = Map::new();
        if let Some(weight) = self.weight {
            limits.insert("weight".to_owned(), json!(weight));
        }
        for ((_, list, name), devices) in PARAMETERS.into_iter().zip(self.devices) {
            let entry = |((major, minor), value)| {
                let mut entry = json!({"major": major, "minor": minor});
                entry[name] = json!(value);
                entry
            };
            let entries: Vec<_> = devices.into_iter().map(entry).collect();
            if !entries.is_empty() {
                limits.insert(list.to_owned(), entries.into());
            }
        }
        BlockIo { limits: Value::Object(limits), warnings: self.warnings }
    }
}

fn number(path: &Path) -> Result<(u32, u32)> {
    let about = fs_err::metadata(path)?;
    if !about.file_type().is_block_device() {
        let what = format!("file {:?} is not a block device", path.display().to_string());
        return Err(Error::said(Kind::InvalidArgument, what));
    }
    Ok((rustix::fs::major(about.rdev()), rustix::fs::minor(about.rdev())))
}

fn as_map(value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(Error::invalid(format!("{other} is not a map"))),
    }
}

/// A field by name. Go's reader of JSON does not look at the case.
fn field<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A quantity as Kubernetes writes them: `1.5M`, `64Ki`, `3e6`; a part of one is rounded up
/// (`k8s.io/apimachinery`, `pkg/api/resource`). What is more than 64 bits is the most there is.
fn quantity(text: &str) -> Option<i64> {
    const DIGITS: usize = 18;
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{part}");
    if digits.is_empty() || digits.len() > DIGITS {
        return None;
    }
    let digits: i128 = digits.parse().ok()?;
    let (factor, divisor) = scale(suffix)?;
    let divisor = divisor * 10_i128.pow(part.len() as u32);
    let value = digits.checked_mul(factor)?;
    let rounded = value / divisor + i128::from(value % divisor != 0);
    let rounded = i64::try_from(rounded).unwrap_or(i64::MAX);
    Some(if negative { -rounded } else { rounded })
}

/// What a suffix multiplies by, and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|it| *it == suffix);
    if let Some(power) = binary {
        return Some((1 << (10 * (power + 1)), 1));
    }
    let power = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        other => other.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?,
    };
    let ten = 10_i128.checked_pow(power.unsigned_abs()).filter(|_| power.abs() <= 18)?;
    Some(if power < 0 { (1, ten) } else { (ten, 1) })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    use super::*;

    /// A folder with devices of these names and minor numbers.
    fn devices(names: &[(&str, u32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, minor) in names {
            let (path, mode) = (folder.path().join(name), Mode::from_raw_mode(0o600));
            mknodat(CWD, &path, FileType::BlockDevice, mode, makedev(8, *minor)).unwrap();
        }
        folder
    }

    #[test]
    fn a_class_is_what_its_rules_say_one_after_the_other() {
        let folder = devices(&[("sda", 0), ("sdb", 16), ("vda", 32)]);
        let dir = folder.path();
        std::os::unix::fs::symlink("sdb", dir.join("by-id-SSD-1")).unwrap();
        let text = format!(
            "Classes:\n  slow:\n    - Weight: 80\n    - Devices: [{dir}/sd[a-z]]\n      \
             ThrottleReadBps: 50M\n      throttleWriteIOPS: 5k\n      Weight: 50\n    \
             - Devices:\n        - \"{dir}/*SSD*\"\n      ThrottleReadBps: 1.5Ki\n  idle:\n",
            dir = dir.display()
        )
        .replace("sd[a-z]]", "\"sd[a-z]\"]")
        .replace(&format!("{}/\"sd", dir.display()), &format!("\"{}/sd", dir.display()));
        let classes = Classes::parse(&text).unwrap();
        let found = classes.find("slow").unwrap();
        assert_eq!(found.warnings, Vec::<String>::new());
        assert_eq!(
            found.limits,
            json!({
                "weight": 80,
                "weightDevice": [
                    {"major": 8, "minor": 0, "weight": 50}, {"major": 8, "minor": 16, "weight": 50}],
                "throttleReadBpsDevice": [
                    {"major": 8, "minor": 0, "rate": 50_000_000},
                    {"major": 8, "minor": 16, "rate": 1536}],
                "throttleWriteIOPSDevice": [
                    {"major": 8, "minor": 0, "rate": 5000}, {"major": 8, "minor": 16, "rate": 5000}],
            })
        );
        assert_eq!(classes.find("idle").unwrap().limits, json!({}));
        let error = classes.find("fast").unwrap_err();
        assert_eq!(error.to_string(), "no OCI BlockIO parameters for class \"fast\"");
    }

    #[test]
    fn what_cannot_be_heeded_is_told_and_left_out() {
        let text = "classes:\n  odd:\n    - Weight: 5\n    - Weight: many\n    - Weight: 2000\n    \
                    - ThrottleReadBps: 1\n    - Devices: [/no/such/device*, /dev/null]\n      Weight: 20\n";
        let found = Classes::parse(text).unwrap().find("odd").unwrap();
        assert_eq!(found.limits, json!({}));
        let want = [
            "ignoring: value of \"Weight\" (5) smaller than minimum (10)",
            "ignoring: syntax error in \"Weight\" (\"many\")",
            "ignoring: value of \"Weight\" (2000) bigger than maximum (1000)",
            "ignoring throttling: Devices not listed",
            "device wildcard \"/no/such/device*\" does not match any device nodes",
            "file \"/dev/null\" is not a block device",
            "no matches on any of Devices: [\"/no/such/device*\",\"/dev/null\"], parameters ignored",
        ];
        assert_eq!(found.warnings, want);
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, want) in [
            ("80", Some(80)),
            ("10k", Some(10_000)),
            ("1.5M", Some(1_500_000)),
            ("64Ki", Some(65536)),
            ("3e6", Some(3_000_000)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("100E", Some(i64::MAX)),
            ("1500m", Some(2)),
            ("-5", Some(-5)),
            ("", None),
            (".", None),
            ("5 M", None),
            ("M", None),
            ("5kk", None),
            ("1e99", None),
        ] {
            assert_eq!(quantity(text), want, "{text:?}");
        }
    }

    #[test]
    fn a_file_that_holds_no_classes_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), "Classes: [1]").unwrap();
        let error = Classes::read(file.path()).unwrap_err().to_string();
        assert!(error.starts_with("failed to set configuration from file \""), "{error}");
        let error = Classes::read(Path::new("/no/such/file")).unwrap_err().to_string();
        assert!(error.starts_with("failed to read config file \"/no/such/file\""), "{error}");
        assert!(Classes::parse("").unwrap().find("any").is_err());
    }
}
