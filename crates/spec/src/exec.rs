// SPDX-License-Identifier: Apache-2.0
use types::Result;

use crate::{Process, Spec, Users, environment};

/// A further process in a container: what of it differs from the first one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The directory to start in, if another one.
    pub cwd: Option<String>,
    /// Changes to the environment: `KEY=value`, or `KEY` to remove it.
    pub env: Vec<String>,
    /// Who to run as, if someone else: see [`Users::find`].
    pub user: Option<String>,
}

impl Exec {
    /// Plans the process for the container that `spec` describes. `users` are only asked when someone
    /// else is to run it.
    pub fn plan(&self, spec: &Spec, users: &Users) -> Result<Process> {
        let mut process = Process {
            args: self.args.clone(),
            terminal: self.terminal,
            env: environment::merge(&spec.process.env, &self.env),
            ..spec.process.clone()
        };
        if let Some(cwd) = &self.cwd {
            process.cwd.clone_from(cwd);
        }
        if let Some(user) = &self.user {
            let other = std::mem::take(&mut process.user.other);
            process.user = users.find(user)?;
            process.user.additional_gids = users.groups(user, process.user.gid);
            process.user.other = other;
        }
        Ok(process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;

    #[test]
    fn a_further_process_is_the_first_one_but_for_what_is_said() {
        let mut spec = crate::default("ns", "id", &Host::default());
        spec.process.env = vec!["A=1".into()];
        let exec = Exec { args: vec!["x".into()], terminal: true, ..Exec::default() };
        let process = exec.plan(&spec, &Users::default()).unwrap();
        let want = Process { args: vec!["x".into()], terminal: true, ..spec.process.clone() };
        assert_eq!(process, want);

        let exec = Exec {
            cwd: Some("/tmp".into()),
            env: vec!["A=2".into()],
            user: Some("7:8".into()),
            ..exec
        };
        let process = exec.plan(&spec, &Users::default()).unwrap();
        assert_eq!((process.cwd.as_str(), &process.env[..]), ("/tmp", &["A=2".to_owned()][..]));
        assert_eq!((process.user.uid, process.user.gid), (7, 8));
    }
}
