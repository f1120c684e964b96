// SPDX-License-Identifier: Apache-2.0
//! Who performs what: a pure function of the mounts, the handlers, and what the caller claims.
use types::{Error, Kind, Result};

use super::Activate;
use crate::Mount;

/// A transformation that a type may begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    Format,
    Mkfs,
    Mkdir,
}

impl Transform {
    fn named(name: &str) -> Option<Self> {
        match name {
            "format" => Some(Self::Format),
            "mkfs" => Some(Self::Mkfs),
            "mkdir" => Some(Self::Mkdir),
            _ => None,
        }
    }
}

/// What becomes of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// What is done to it, each with the type that is left afterwards.
    pub(super) transforms: Vec<(Transform, String)>,
    /// Whether the caller does not do all of that itself.
    pub(super) is_ours: bool,
    /// Whether a handler mounts it.
    pub(super) is_handled: bool,
}

/// What an activation will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) steps: Vec<Step>,
    /// How many mounts are performed; the others are the system's.
    pub(super) performed: usize,
}

/// Plans an activation.
///
/// Errors: `Unimplemented` when there is nothing to do.
pub(super) fn plan(
    mounts: &[Mount],
    options: &Activate,
    is_known: impl Fn(&str) -> bool,
) -> Result<Plan> {
    let mut plan = Plan { steps: Vec::with_capacity(mounts.len()), performed: 0 };
    let mut is_needed = false;
    for (at, mount) in mounts.iter().enumerate() {
        let (step, kind) = step(mount, options, &is_known);
        // What a template names was mounted before it.
        if step.is_ours {
            (plan.performed, is_needed) = (at, true);
        }
        let is_allowed = options.allow_mount_types.iter().any(|allowed| allowed == kind);
        if options.temporary || (step.is_handled && !is_allowed) {
            (plan.performed, is_needed) = (at + 1, true);
        }
        plan.steps.push(step);
    }
    // Compat: the whole text of Go's error.
    is_needed.then_some(plan).ok_or_else(|| Error::said(Kind::Unimplemented, "not implemented"))
}

fn step<'a>(
    mount: &'a Mount,
    options: &Activate,
    is_known: &impl Fn(&str) -> bool,
) -> (Step, &'a str) {
    let allows = |name: &str| options.allow_mount_types.iter().any(|allowed| allowed == name);
    let mut step = Step { transforms: Vec::new(), is_ours: false, is_handled: false };
    let mut kind = mount.kind.as_str();
    while let Some((name, rest)) = kind.split_once('/')
        && let Some(transform) = Transform::named(name)
    {
        step.is_ours |= !allows(&format!("{name}/*")) && !allows(&mount.kind);
        step.transforms.push((transform, rest.to_owned()));
        kind = rest;
    }
    step.is_handled = is_known(kind);
    (step, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn performed(kinds: &[&str], allowed: &[&str]) -> Option<usize> {
        let mounts: Vec<_> = kinds
            .iter()
            .map(|kind| Mount { kind: (*kind).to_owned(), ..Mount::default() })
            .collect();
        let allow_mount_types = allowed.iter().map(|&it| it.to_owned()).collect();
        let options = Activate { allow_mount_types, ..Activate::default() };
        plan(&mounts, &options, |kind| kind == "loop").ok().map(|plan| plan.performed)
    }

    #[test]
    fn plain_mounts_are_left_to_the_system() {
        assert_eq!(performed(&["bind", "overlay"], &[]), None);
        assert_eq!(performed(&[], &[]), None);
        assert_eq!(performed(&["other/overlay"], &[]), None);
    }

    #[test]
    fn everything_before_a_template_is_performed() {
        assert_eq!(performed(&["bind", "format/overlay"], &[]), Some(1));
        assert_eq!(performed(&["bind", "overlay", "format/mkdir/overlay", "bind"], &[]), Some(2));
    }

    #[test]
    fn what_has_a_handler_is_performed_itself() {
        assert_eq!(performed(&["loop"], &[]), Some(1));
        assert_eq!(performed(&["mkfs/loop", "format/ext4"], &[]), Some(1));
    }

    #[test]
    fn what_the_caller_claims_is_left_to_it_unless_something_depends_on_it() {
        assert_eq!(performed(&["loop"], &["loop"]), None);
        assert_eq!(performed(&["loop", "format/ext4"], &["loop", "format/*"]), None);
        assert_eq!(performed(&["format/mkdir/overlay"], &["format/*"]), Some(0));
        assert_eq!(performed(&["format/mkdir/overlay"], &["format/mkdir/overlay"]), None);
        assert_eq!(performed(&["loop", "format/ext4"], &["loop"]), Some(1));
    }

    #[test]
    fn all_of_a_temporary_set_is_performed() {
        let mounts = [Mount::bind("/a", ["ro"]), Mount::bind("/b", ["ro"])];
        let options = Activate { temporary: true, ..Activate::default() };
        assert_eq!(plan(&mounts, &options, |_| false).unwrap().performed, 2);
    }

    #[test]
    fn nothing_to_do_is_said_in_go_s_words() {
        let error = plan(&[], &Activate::default(), |_| false).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (Kind::Unimplemented, "not implemented".into())
        );
    }
}
