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
pub struct Classes(BTreeMap<String, Vec<Rule>>);

/// What holds for some devices.
#[derive(Clone, Debug)]
struct Rule {
    /// Patterns of the devices; none for all that no other rule is about.
    devices: Option<Vec<String>>,
    /// By parameter.
    values: [Option<i64>; 5],
}

/// What a class means for a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockIo {
    /// `linux.resources.blockIO` of the runtime's specification.
    pub limits: Value,
    /// Devices of the class that are not here, and why.
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

    /// Reads classes from YAML. All that is wrong with any of them is told at once.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(all) = field(&as_map(yaml::parse(text)?)?, "Classes").cloned() else {
            return Ok(Self::default());
        };
        let (mut classes, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, list) in as_map(all)? {
            let list = match list {
                Value::Null => Vec::new(),
                Value::Array(list) => list,
                _ => return Err(Error::invalid(format!("class {name:?} is no list"))),
            };
            let rules = list.into_iter().map(|it| Rule::read(&as_map(it)?, &mut errors));
            classes.insert(name, rules.collect::<Result<_>>()?);
        }
        match errors.as_slice() {
            [] => Ok(Self(classes)),
            errors => Err(Error::said(Kind::InvalidArgument, errors.join("; "))),
        }
    }

    /// What this class means on this machine, whose devices are looked for. What is not here is left
    /// out, and told.
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

impl Rule {
    fn read(told: &Map<String, Value>, errors: &mut Vec<String>) -> Result<Self> {
        let values = PARAMETERS.map(|(name, ..)| {
            value(name, field(told, name)).unwrap_or_else(|error| {
                errors.push(error);
                None
            })
        });
        let devices = match field(told, "Devices") {
            None | Some(Value::Null) => None,
            Some(list) => {
                let texts = list.as_array().into_iter().flatten().map(Value::as_str);
                let texts = texts.map(|text| text.map(str::to_owned)).collect::<Option<Vec<_>>>();
                let is_list = texts.filter(|_| list.is_array());
                Some(
                    is_list
                        .ok_or_else(|| Error::invalid(format!("{list} is no list of devices")))?,
                )
            }
        };
        if devices.is_none() && values[1..].iter().any(Option::is_some) {
            errors.push("ignoring throttling: Devices not listed".to_owned());
        }
        Ok(Self { devices, values })
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

/// The least and the greatest weight that there is.
const WEIGHTS: (i64, i64) = (10, 1000);

#[derive(Default)]
struct Plan {
    weight: Option<i64>,
    /// By parameter: devices, and what holds for them. What is said later counts.
    devices: [Vec<((u32, u32), i64)>; 5],
    warnings: Vec<String>,
}

impl Plan {
    fn add(&mut self, rule: &Rule) {
        let Some(patterns) = &rule.devices else {
            self.weight = rule.values[0].or(self.weight);
            return;
        };
        let devices = self.block_devices(patterns);
        if devices.is_empty() {
            let what = format!("no matches on any of Devices: {patterns:?}, parameters ignored");
            self.warnings.push(what);
        }
        for (known, value) in self.devices.iter_mut().zip(rule.values) {
            for (device, value) in devices.iter().filter_map(|&it| Some((it, value?))) {
                known.retain(|(other, _)| *other != device);
                known.push((device, value));
            }
        }
    }

    /// The numbers of the devices that are called so, now and on this machine.
    fn block_devices(&mut self, patterns: &[String]) -> Vec<(u32, u32)> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for pattern in patterns {
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

/// What is said of a parameter, if anything; why not, if it makes no sense.
fn value(name: &str, told: Option<&Value>) -> std::result::Result<Option<i64>, String> {
    let text = match told {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let value = quantity(&text).ok_or_else(|| format!("syntax error in {name:?} ({text:?})"))?;
    let (low, high) = if name == "Weight" { WEIGHTS } else { (0, i64::MAX) };
    if value < low {
        return Err(format!("value of {name:?} ({value}) smaller than minimum ({low})"));
    }
    if value > high {
        return Err(format!("value of {name:?} ({value}) bigger than maximum ({high})"));
    }
    Ok(Some(value))
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
        let text = "
            Classes:
              slow:
                - Weight: 80
                - Devices: [\"DIR/sd[a-z]\"]
                  ThrottleReadBps: 50M
                  throttleWriteIOPS: 5k
                  Weight: 50
                - Devices:
                    - DIR/*SSD*
                  ThrottleReadBps: 1.5Ki
              idle:
        ";
        let text = text.replace("DIR", &dir.display().to_string());
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
    fn values_that_make_no_sense_are_told_all_at_once() {
        let text = "classes:\n  odd:\n    - Weight: 5\n    - Weight: many\n    - Weight: 2000\n    \
                    - ThrottleReadBps: 1\n  other:\n    - Devices: []\n      throttleWriteIOPS: -1\n";
        let error = Classes::parse(text).unwrap_err();
        let want = [
            "value of \"Weight\" (5) smaller than minimum (10)",
            "syntax error in \"Weight\" (\"many\")",
            "value of \"Weight\" (2000) bigger than maximum (1000)",
            "ignoring throttling: Devices not listed",
            "value of \"ThrottleWriteIOPS\" (-1) smaller than minimum (0)",
        ];
        assert_eq!(error.to_string(), want.join("; "));
        assert!(Classes::parse("classes: {a: [{Devices: /dev/sda}]}").is_err());
    }

    #[test]
    fn devices_that_are_not_here_are_told_and_left_out() {
        let text = "classes: {a: [{Devices: [/no/such/device*, /dev/null], Weight: 20}]}";
        let found = Classes::parse(text).unwrap().find("a").unwrap();
        assert_eq!(found.limits, json!({}));
        let want = [
            "device wildcard \"/no/such/device*\" does not match any device nodes",
            "file \"/dev/null\" is not a block device",
            "no matches on any of Devices: [\"/no/such/device*\", \"/dev/null\"], parameters ignored",
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
