// SPDX-License-Identifier: Apache-2.0
use std::io;

use fs_err as fs;
use sys::loop_device::{LoopDevice, Params, backing, detach};

#[test]
fn a_file_becomes_a_device_and_is_freed_when_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image");
    fs::write(&file, vec![b'x'; 1 << 20]).unwrap();

    let params = Params { read_only: true, autoclear: true, direct_io: false };
    let device = LoopDevice::attach(&file, params).unwrap();
    let path = device.path().to_owned();
    assert_eq!(backing(&path).unwrap(), file);
    assert_eq!(fs::read(&path).unwrap().len(), 1 << 20);

    drop(device);
    assert_ne!(backing(&path).ok(), Some(file));
}

#[test]
fn a_device_that_does_not_clear_itself_is_detached_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image");
    fs::write(&file, vec![0; 1 << 20]).unwrap();

    let device = LoopDevice::attach(&file, Params::default()).unwrap();
    let path = device.path().to_owned();
    drop(device);
    let before = backing(&path).unwrap();
    detach(&path).unwrap();
    assert_eq!(before, file);
    assert_ne!(backing(&path).ok(), Some(file));
}

#[test]
fn a_file_that_does_not_exist_is_told() {
    let error = LoopDevice::attach("/no/such/image".as_ref(), Params::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
