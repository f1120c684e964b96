// SPDX-License-Identifier: Apache-2.0
use rustix::process::Signal;
use sys::Signals;

#[test]
fn a_blocked_signal_is_read_as_data() {
    let signals = Signals::block(&[Signal::USR1]).unwrap();
    assert_eq!(signals.next().unwrap(), None);
    // SAFETY: raise sends to this thread, which has just blocked the signal.
    unsafe { libc::raise(libc::SIGUSR1) };
    let received = signals.next().unwrap().expect("the signal is pending");
    assert_eq!((received.signal, received.pid), (Signal::USR1, std::process::id()));
    assert_eq!(signals.next().unwrap(), None);
}
