// SPDX-License-Identifier: Apache-2.0
//! Command lines (github.com/containerd/go-runc, `runc.go`).
use std::{ffi::OsString, path::Path};

/// What `runc create` is told.
#[derive(Debug, Default)]
pub(crate) struct Create<'a> {
    pub(crate) pid_file: &'a str,
    pub(crate) console: Option<&'a Path>,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
}

impl Create<'_> {
    pub(super) fn args(&self, bundle: &Path, id: &str) -> Vec<OsString> {
        let mut line = Line::begin("create");
        line.pair("--bundle", bundle);
        line.pair("--pid-file", self.pid_file);
        line.console(self.console);
        line.flag("--no-pivot", self.no_pivot);
        line.flag("--no-new-keyring", self.no_new_keyring);
        line.end(id)
    }
}

/// What `runc exec` is told.
#[derive(Debug, Default)]
pub(crate) struct Exec<'a> {
    pub(crate) name: &'a str,
    pub(crate) process: &'a str,
    pub(crate) pid_file: &'a str,
    pub(crate) console: Option<&'a Path>,
}

impl Exec<'_> {
    pub(super) fn args(&self, id: &str) -> Vec<OsString> {
        let mut line = Line::begin("exec");
        line.pair("--process", self.process);
        line.console(self.console);
        line.flag("--detach", true);
        line.pair("--pid-file", self.pid_file);
        line.end(id)
    }
}

/// What `runc checkpoint` is told.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint<'a> {
    pub(crate) image_path: &'a str,
    pub(crate) work_path: &'a str,
    pub(crate) parent_path: &'a str,
    pub(crate) open_tcp: bool,
    pub(crate) external_unix_sockets: bool,
    pub(crate) terminal: bool,
    pub(crate) file_locks: bool,
    pub(crate) cgroups_mode: &'a str,
    pub(crate) empty_namespaces: &'a [String],
    pub(crate) leave_running: bool,
}

impl Checkpoint<'_> {
    pub(super) fn args(&self, id: &str) -> Vec<OsString> {
        let mut line = Line::begin("checkpoint");
        line.pair("--image-path", self.image_path);
        line.pair("--work-path", self.work_path);
        line.pair("--parent-path", self.parent_path);
        line.flag("--tcp-established", self.open_tcp);
        line.flag("--ext-unix-sk", self.external_unix_sockets);
        line.flag("--shell-job", self.terminal);
        line.flag("--file-locks", self.file_locks);
        line.pair("--manage-cgroups-mode", self.cgroups_mode);
        for namespace in self.empty_namespaces {
            line.pair("--empty-ns", namespace);
        }
        line.flag("--leave-running", self.leave_running);
        line.end(id)
    }
}

/// What `runc restore` is told.
#[derive(Debug, Default)]
pub(crate) struct Restore<'a> {
    pub(crate) image_path: &'a str,
    pub(crate) work_path: &'a str,
    pub(crate) parent_path: &'a str,
    pub(crate) pid_file: &'a str,
    pub(crate) console: Option<&'a Path>,
    pub(crate) no_pivot: bool,
}

impl Restore<'_> {
    pub(super) fn args(&self, bundle: &Path, id: &str) -> Vec<OsString> {
        let mut line = Line::begin("restore");
        line.pair("--image-path", self.image_path);
        line.pair("--work-path", self.work_path);
        line.pair("--parent-path", self.parent_path);
        line.flag("--detach", true);
        line.pair("--pid-file", self.pid_file);
        line.console(self.console);
        line.flag("--no-pivot", self.no_pivot);
        line.flag("--no-subreaper", true);
        line.pair("--bundle", bundle);
        line.end(id)
    }
}

/// A command line in the making. What is empty or false is left out.
struct Line(Vec<OsString>);

impl Line {
    fn begin(command: &str) -> Self {
        Self(vec![command.into()])
    }

    fn flag(&mut self, name: &str, is_set: bool) {
        self.0.extend(is_set.then(|| name.into()));
    }

    fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        let value = value.into();
        if !value.is_empty() {
            self.0.extend([name.into(), value]);
        }
    }

    fn console(&mut self, console: Option<&Path>) {
        self.pair("--console-socket", console.unwrap_or(Path::new("")));
    }

    fn end(mut self, id: &str) -> Vec<OsString> {
        self.0.push(id.into());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(args: Vec<OsString>, want: &str) {
        let args: Vec<_> = args.into_iter().map(|arg| arg.into_string().unwrap()).collect();
        assert_eq!(args.join(" "), want);
    }

    #[test]
    fn create_says_only_what_differs() {
        let create = Create { pid_file: "/b/init.pid", ..Default::default() };
        let want = "create --bundle /b --pid-file /b/init.pid a";
        check(create.args(Path::new("/b"), "a"), want);
        let console = Some(Path::new("/s"));
        let create =
            Create { pid_file: "/b/init.pid", console, no_pivot: true, no_new_keyring: true };
        let want = "create --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot \
                    --no-new-keyring a";
        check(create.args(Path::new("/b"), "a"), want);
    }

    #[test]
    fn exec_leaves_the_process_to_us() {
        let exec = Exec { name: "e", process: "/p", pid_file: "/b/e.pid", console: None };
        check(exec.args("a"), "exec --process /p --detach --pid-file /b/e.pid a");
    }

    #[test]
    fn checkpoint_and_restore_agree_on_paths() {
        let namespaces = ["network".to_owned()];
        let checkpoint = Checkpoint {
            image_path: "/i",
            work_path: "/w",
            open_tcp: true,
            empty_namespaces: &namespaces,
            leave_running: true,
            ..Default::default()
        };
        let want = "checkpoint --image-path /i --work-path /w --tcp-established --empty-ns network \
                    --leave-running a";
        check(checkpoint.args("a"), want);
        let restore = Restore {
            image_path: "/i",
            work_path: "/w",
            pid_file: "/b/init.pid",
            ..Default::default()
        };
        let want = "restore --image-path /i --work-path /w --detach --pid-file /b/init.pid \
                    --no-subreaper --bundle /b a";
        check(restore.args(Path::new("/b"), "a"), want);
    }
}
