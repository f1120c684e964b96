// SPDX-License-Identifier: Apache-2.0
//! Everything that is done outside the server: placing, cleaning up, describing.
use std::{env, path::Path, sync::Arc, time::SystemTime};

use api::containerd::{
    runc::v1::Options,
    types::{RuntimeInfo, RuntimeVersion},
};
use cgroups::Cgroup;
use fs_err as fs;
use mount::UnmountFlags;
use shim::{Context, Placement, Remains, Shim, Stopped, Task, bootstrap::Params};
use tracing::warn;
use types::{Any, Context as _, Error, Kind, Result};

use crate::{
    options,
    runc::{INIT_PID, Runc},
    service::Service,
    spec::Spec,
};

/// The name of the runtime.
const NAME: &str = "io.containerd.runc.v2";
/// The status of a process that was killed.
const KILLED: u32 = 137;
/// What `runc features` prints, as containerd names it (`github.com/containerd/typeurl`).
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The shim for runc.
#[derive(Debug)]
pub(crate) struct RuncShim;

impl Shim for RuncShim {
    fn name(&self) -> &str {
        NAME
    }

    fn placement(&self, bundle: &Path, params: &Params) -> Result<Placement> {
        let group = Spec::read(bundle)?.group().map(str::to_owned);
        let options = params.options.iter().find_map(runc_options).unwrap_or_default();
        let cgroup = Some(options.shim_cgroup).filter(|cgroup| !cgroup.is_empty());
        Ok(Placement { group, cgroup })
    }

    fn stop(&self, remains: &Remains) -> Result<Stopped> {
        let bundle = &remains.bundle;
        let runc = Runc::new(&options::read(bundle)?, bundle, &remains.namespace);
        // Daemons up to 1.6 ask for this after every container, when usually nothing remains.
        if runc.may_know(&remains.id) {
            match runc.delete_now(&remains.id) {
                // What a runtime that was killed had made and not yet written down is empty.
                Ok(()) => drop(cgroup_of(bundle).map(|cgroup| cgroup.delete())),
                Err(error) => {
                    eprintln!("failed to remove runc container: {error}");
                    kill_cgroup(bundle);
                }
            }
        }
        unmount_rootfs(bundle);
        let pid = fs::read_to_string(bundle.join(INIT_PID)).ok();
        Ok(Stopped {
            pid: pid.and_then(|pid| pid.trim().parse().ok()).unwrap_or_default(),
            exit_status: KILLED,
            exited_at: SystemTime::now(),
        })
    }

    fn info(&self, any: Option<&Any>) -> Result<RuntimeInfo> {
        let wire = any.map(|any| prost_types::Any {
            type_url: any.type_url.clone(),
            value: any.value.to_vec(),
        });
        let options = options::unpack(wire.as_ref())
            .context(|| "failed to read runtime options (*options.Options)")?;
        let program = look_up(&options.binary_name)?;
        Ok(RuntimeInfo {
            name: NAME.into(),
            version: Some(RuntimeVersion {
                version: env!("CARGO_PKG_VERSION").into(),
                revision: String::new(),
            }),
            features: features(&program),
            options: wire,
            ..Default::default()
        })
    }

    fn serve(&self, context: Context) -> Result<Arc<dyn Task>> {
        Ok(Arc::new(Service::new(context)))
    }
}

fn runc_options(any: &Any) -> Option<Options> {
    let wire = prost_types::Any { type_url: any.type_url.clone(), value: any.value.to_vec() };
    api::unpack(&wire)?.ok()
}

/// Ends what runc could not, by the cgroup that the specification names: what is left there would
/// keep the root filesystem busy for ever (containerd `manager/cgroup_linux.go`).
pub(crate) fn kill_cgroup(bundle: &Path) {
    let Some(cgroup) = cgroup_of(bundle) else { return };
    if let Err(error) = cgroup.kill().and_then(|()| cgroup.delete()) {
        eprintln!("failed to clean up container cgroup: {error}");
    }
}

/// The cgroup that the specification names, if it is there.
fn cgroup_of(bundle: &Path) -> Option<Cgroup> {
    Cgroup::at(Spec::read(bundle).ok()?.cgroup()?).ok()
}

/// Unmounts a container's root filesystem, and if it is busy takes it out of sight.
pub(crate) fn unmount_rootfs(bundle: &Path) {
    let rootfs = bundle.join("rootfs");
    let unmounted = mount::unmount_recursive(&rootfs, UnmountFlags::empty()).or_else(|error| {
        warn!(%error, "failed to cleanup rootfs mount, retrying with MNT_DETACH");
        mount::unmount_recursive(&rootfs, UnmountFlags::DETACH)
    });
    if let Err(error) = unmounted {
        warn!(%error, "failed to cleanup rootfs mount with MNT_DETACH");
    }
}

fn look_up(name: &str) -> Result<String> {
    let name = if name.is_empty() { "runc" } else { name };
    if name.contains('/') {
        return Ok(name.to_owned());
    }
    sys::program::find(name, None).map(|path| path.display().to_string()).ok_or_else(|| {
        let message = format!(
            "failed to look up the path of {name:?}: exec: {name:?}: executable file not found in $PATH"
        );
        Error::said(Kind::Unknown, message)
    })
}

/// What the runtime says of itself. Not every runtime can.
fn features(program: &str) -> Option<prost_types::Any> {
    let output = sys::Command::new(program).arg("features").output().ok()?;
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&output.stdout).is_ok();
    (output.exit.success() && is_json)
        .then(|| prost_types::Any { type_url: FEATURES.into(), value: output.stdout })
}
