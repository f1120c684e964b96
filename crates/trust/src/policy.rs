// SPDX-License-Identifier: Apache-2.0
//! Which images are wanted, by their names.
//!
//! ```toml
//! default = "reject"                      # where no rule fits; "accept" unless said
//!
//! [keys]
//! release = "release.pub"                 # beside this file, or an absolute path
//! audit = """-----BEGIN PUBLIC KEY-----
//! ..."""
//!
//! [[rule]]
//! prefix = "registry.example/team"        # team/app, but not teams/app; the longest that fits
//! namespaces = ["k8s.io"]                 # all of them where none is named
//! action = "require"                      # or "accept", "reject"
//! keys = ["release", "audit"]
//! at_least = 2                            # 1 unless said
//! ```
mod file;
mod name;

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use types::{Context as _, Digest, Error, Kind, Result};

use crate::{Evidence, PublicKey, signers};
pub use file::PolicyFile;

/// What becomes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is taken.
    Accept,
    /// It is refused.
    Reject,
    /// It is taken if it is signed.
    Require,
}

/// Whose signatures are wanted, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The keys, by name.
    pub keys: Vec<(String, PublicKey)>,
    /// How many of them must have signed.
    pub at_least: usize,
}

/// What holds for some names in some namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What the names begin with; empty for the rule where no other fits.
    pub prefix: String,
    /// The namespaces; none are all.
    pub namespaces: Vec<String>,
    /// What becomes of such images.
    pub action: Action,
    /// For [`Action::Require`].
    pub requirement: Requirement,
}

/// Rules, and one for everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    default: Rule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "accept")]
    default: Action,
    #[serde(default)]
    keys: BTreeMap<String, String>,
    #[serde(default)]
    rule: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    prefix: String,
    #[serde(default)]
    namespaces: Vec<String>,
    action: Action,
    #[serde(default)]
    keys: Vec<String>,
    at_least: Option<usize>,
}

fn accept() -> Action {
    Action::Accept
}

impl Policy {
    /// Reads a policy's text; files of keys that it names without a path are in `folder`.
    ///
    /// Errors: `InvalidArgument` for anything in it that is not known, rules that cannot be told apart,
    /// and rules that nothing or everything would satisfy; what reading a key said.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let written = Written::read(text)?;
        let mut keys = BTreeMap::new();
        for (name, source) in &written.keys {
            let key = if source.contains("-----BEGIN") {
                PublicKey::from_pem(source)
            } else {
                fs_err::read_to_string(folder.join(source))
                    .map_err(Error::from)
                    .and_then(|text| PublicKey::from_pem(&text))
            };
            keys.insert(name.clone(), key.context(|| format!("key {name:?}"))?);
        }
        if written.default == Action::Require {
            return Err(Error::invalid("the default is \"accept\" or \"reject\""));
        }
        let mut rules: Vec<Rule> = Vec::new();
        for rule in written.rule {
            let what = format!("rule {:?}", rule.prefix);
            let rule = rule.check(&keys).context(|| what.clone())?;
            if rules.iter().any(|other| other.clashes(&rule)) {
                return Err(Error::invalid(format!("{what} is there twice")));
            }
            rules.push(rule);
        }
        let requirement = Requirement { keys: Vec::new(), at_least: 0 };
        let (prefix, namespaces) = (String::new(), Vec::new());
        let default = Rule { prefix, namespaces, action: written.default, requirement };
        Ok(Self { rules, default })
    }

    /// The files of keys that a policy's text names.
    fn files(text: &str, folder: &Path) -> Result<Vec<std::path::PathBuf>> {
        let keys = Written::read(text)?.keys.into_values();
        Ok(keys.filter(|it| !it.contains("-----BEGIN")).map(|it| folder.join(it)).collect())
    }

    /// The rule for an image called `name`: that with the longest prefix, and of two with the same the
    /// one that names the namespace.
    pub fn rule(&self, namespace: &str, name: &str) -> &Rule {
        let name = name::canonical(name);
        let fitting = self.rules.iter().filter(|rule| rule.fits(namespace, &name));
        let best = fitting.max_by_key(|rule| (rule.prefix.len(), !rule.namespaces.is_empty()));
        best.unwrap_or(&self.default)
    }

    /// Decides on the image `digest`, which is called `name`, by the signatures that were found.
    ///
    /// Errors: `PermissionDenied` with the rule, the name and what is missing.
    pub fn judge(
        &self,
        namespace: &str,
        name: &str,
        image: &Digest,
        evidence: &[Evidence],
    ) -> Result<()> {
        let rule = self.rule(namespace, name);
        let Requirement { keys, at_least } = &rule.requirement;
        let why = match rule.action {
            Action::Accept => return Ok(()),
            Action::Reject => "images of such names are not wanted".to_owned(),
            Action::Require => {
                let all = keys.iter().map(|(name, key)| (name.as_str(), key));
                let found = signers(evidence, image, all).len();
                if found >= *at_least {
                    return Ok(());
                }
                let names: Vec<_> = keys.iter().map(|(name, _)| name.as_str()).collect();
                let names = names.join(", ");
                format!("{found} of {at_least} required signatures (keys: {names})")
            }
        };
        let what = format!("image {name:?} ({image}) is refused by the {}: {why}", rule.name());
        Err(Error::said(Kind::PermissionDenied, what))
    }
}

impl Rule {
    /// What messages call it.
    pub fn name(&self) -> String {
        match self.prefix.as_str() {
            "" => "policy's default".to_owned(),
            prefix => format!("policy rule {prefix:?}"),
        }
    }

    fn fits(&self, namespace: &str, name: &str) -> bool {
        let is_here =
            self.namespaces.is_empty() || self.namespaces.iter().any(|it| it == namespace);
        is_here
            && name.strip_prefix(&self.prefix).is_some_and(|rest| {
                self.prefix.ends_with('/') || rest.is_empty() || rest.starts_with(['/', ':', '@'])
            })
    }

    /// Whether it could not be said which of the two holds.
    fn clashes(&self, other: &Self) -> bool {
        let both = |it: &String| other.namespaces.contains(it);
        self.prefix == other.prefix
            && (self.namespaces.is_empty() == other.namespaces.is_empty())
            && (self.namespaces.is_empty() || self.namespaces.iter().any(both))
    }
}

impl Written {
    fn read(text: &str) -> Result<Self> {
        toml::from_str(text)
            .map_err(|e| Error::caused(Kind::InvalidArgument, "malformed policy", e))
    }
}

impl WrittenRule {
    fn check(self, known: &BTreeMap<String, PublicKey>) -> Result<Rule> {
        let Self { prefix, namespaces, action, keys, at_least } = self;
        if prefix.is_empty() {
            return Err(Error::invalid(
                "a rule needs a prefix; for everything else there is `default`",
            ));
        }
        let prefix = name::prefix(&prefix)?;
        let mut found: Vec<(String, PublicKey)> = Vec::new();
        for name in keys {
            let key = known.get(&name);
            let key = key.ok_or_else(|| Error::invalid(format!("key {name:?} is not known")))?;
            if found.iter().any(|(_, other)| other == key) {
                return Err(Error::invalid(format!("key {name:?} is there twice")));
            }
            found.push((name, key.clone()));
        }
        let wanted = match (action, at_least) {
            (Action::Require, wanted) => wanted.unwrap_or(1),
            (_, None) if found.is_empty() => 0,
            _ => return Err(Error::invalid("keys are for the action \"require\" only")),
        };
        if action == Action::Require && !(1..=found.len()).contains(&wanted) {
            let many = found.len();
            return Err(Error::invalid(format!(
                "{wanted} signatures of {many} keys make no sense"
            )));
        }
        let requirement = Requirement { keys: found, at_least: wanted };
        Ok(Rule { prefix, namespaces, action, requirement })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrivateKey;

    fn policy(text: &str) -> Result<Policy> {
        Policy::parse(text, Path::new("/nowhere"))
    }

    const RULES: &str = r#"
        default = "reject"
        [[rule]]
        prefix = "docker.io/library"
        action = "accept"
        [[rule]]
        prefix = "registry.example/"
        action = "accept"
        [[rule]]
        prefix = "registry.example/team"
        action = "reject"
        [[rule]]
        prefix = "registry.example/team"
        namespaces = ["dev"]
        action = "accept"
    "#;

    #[track_caller]
    fn check(namespace: &str, name: &str, want: Action) {
        let policy = policy(RULES).unwrap();
        assert_eq!(policy.rule(namespace, name).action, want, "{name}");
    }

    #[test]
    fn the_longest_prefix_that_ends_with_a_part_of_the_name_decides() {
        check("prod", "registry.example/team/app:1", Action::Reject);
        check("prod", "registry.example/team:1", Action::Reject);
        check("prod", "registry.example/team@sha256:0", Action::Reject);
        check("prod", "registry.example/teams/app:1", Action::Accept);
        check("prod", "registry.example.org/team/app:1", Action::Reject);
    }

    #[test]
    fn a_rule_for_the_namespace_comes_before_one_for_all() {
        check("dev", "registry.example/team/app:1", Action::Accept);
        check("prod", "registry.example/team/app:1", Action::Reject);
    }

    #[test]
    fn another_way_to_write_a_name_is_the_same_name() {
        check("prod", "REGISTRY.example/team/app:1", Action::Reject);
        check("prod", "registry.example:443/team/app:1", Action::Reject);
        check("prod", "registry.example./team/app:1", Action::Reject);
        check("prod", "registry.example//team/app:1", Action::Reject);
        check("prod", "registry.example/./team/app:1", Action::Reject);
        check("prod", "index.docker.io/library/busybox", Action::Accept);
        check("prod", "docker.io/busybox", Action::Accept);
        check("prod", "", Action::Reject);
    }

    #[test]
    fn a_rule_may_be_for_a_whole_registry() {
        let text = "[[rule]]\nprefix = \"Registry.Example\"\naction = \"reject\"";
        let policy = policy(text).unwrap();
        assert_eq!(policy.rule("x", "registry.example/a").action, Action::Reject);
        assert_eq!(policy.rule("x", "registry.example.org/a").action, Action::Accept);
    }

    #[test]
    fn a_policy_that_is_not_understood_is_refused() {
        for (text, why) in [
            ("defualt = \"reject\"", "unknown field"),
            ("default = \"require\"", "the default is"),
            ("[[rule]]\nprefix = \"a\"\naction = \"allow\"", "unknown variant"),
            ("[[rule]]\nprefix = \"a\"\naction = \"require\"", "1 signatures of 0 keys"),
            ("[[rule]]\nprefix = \"\"\naction = \"accept\"", "needs a prefix"),
            ("[[rule]]\nprefix = \"a\"\naction = \"require\"\nkeys = [\"k\"]", "is not known"),
            ("[keys]\nk = \"none.pub\"", "none.pub"),
            ("[[rule]]\nprefix = \"docker.io/team\"\naction = \"reject\"", "\"docker.io/team/\""),
        ] {
            let error = policy(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let rule = "[[rule]]\nprefix = \"a\"\naction = \"accept\"\n";
        let error = policy(&rule.repeat(2)).unwrap_err().to_string();
        assert!(error.contains("rule \"a\" is there twice"), "{error}");
    }

    #[test]
    fn as_many_keys_must_have_signed_as_the_rule_says() {
        let (one, two) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let text = format!(
            "[keys]\none = \"\"\"{}\"\"\"\ntwo = \"\"\"{}\"\"\"\n[[rule]]\nprefix = \"r.io/\"\n\
             action = \"require\"\nkeys = [\"one\", \"two\"]\nat_least = 2",
            one.public().to_pem(),
            two.public().to_pem()
        );
        let policy = policy(&text).unwrap();
        let image = Digest::of("image");
        let another = Digest::of("another");
        let sign = |key, image| Evidence::sign(key, "r.io/a", image).unwrap();
        let judge = |evidence: &[Evidence]| policy.judge("x", "r.io/a", &image, evidence);
        let refused = judge(&[sign(&one, &image), sign(&one, &image)]).unwrap_err();
        assert_eq!(refused.kind(), Kind::PermissionDenied);
        let want = format!(
            "image \"r.io/a\" ({image}) is refused by the policy rule \"r.io/\": \
             1 of 2 required signatures (keys: one, two)"
        );
        assert_eq!(refused.to_string(), want);
        assert!(judge(&[sign(&one, &image), sign(&two, &another)]).is_err());
        judge(&[sign(&one, &image), sign(&two, &image)]).unwrap();
        judge(&[sign(&one, &image).joined(&sign(&two, &image)).unwrap()]).unwrap();
    }
}
