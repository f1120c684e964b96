// SPDX-License-Identifier: Apache-2.0
//! Which hosts would be asked for an image, why, with whose credentials, and what they say.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use registry::{Capabilities, Found, Heard, Host, Options, Reference, Registry, Scheme};
use types::{Error, Result};

use crate::{access::Access, output::say, table::Table};

/// Where the folders are unless somebody says otherwise (containerd `docs/hosts.md`).
const USUAL: &str = "/etc/containerd/certs.d";

/// Tell where an image would be fetched from, and what each host says to that.
#[derive(Debug, Args)]
#[command(after_help = "Hosts are asked from here, in the order in which a pull would ask them; \
                        nothing is fetched.\nUnless --hosts-dir says otherwise, they are read from \
                        /etc/containerd/certs.d.")]
pub(crate) struct Ask {
    /// The image's full name, such as docker.io/library/busybox:latest
    #[arg(value_name = "REF")]
    reference: Reference,
    #[command(flatten)]
    access: Access,
}

impl Ask {
    pub(crate) async fn run(self) -> Result<()> {
        let found = self.access.directories(Some(USUAL))?.find(self.reference.host())?;
        explain(&found);
        let mut table = Table::new(["HOST", "MAY", "CREDENTIALS", "TOOK", "ANSWER"]);
        let mut anybody = false;
        for host in &found.hosts {
            let (said, asked) = self.ask(host).await?;
            anybody |= said.is_ok();
            let answer = match &said {
                Ok(digest) => digest.clone(),
                Err(error) => error.to_string().replace('\n', " "),
            };
            table.row([
                address(host),
                may(host.capabilities),
                asked.credentials(),
                asked.took(),
                answer,
            ]);
        }
        table.print();
        if anybody {
            return Ok(());
        }
        Err(Error::not_found(format!("{}: no host has it", self.reference)))
    }

    /// Asks one host alone, whatever it is trusted with.
    async fn ask(&self, host: &Host) -> Result<(Result<String>, Asked)> {
        let heard = Arc::<Mutex<Asked>>::default();
        let notes = Arc::clone(&heard);
        let alone = Host { capabilities: Capabilities::ALL, ..host.clone() };
        let options = self.access.options(Some(alone))?;
        let others = options.listener.clone();
        let listener = move |heard: &Heard<'_>| {
            notes.lock().unwrap_or_else(PoisonError::into_inner).note(heard);
            if let Some(others) = &others {
                others(heard);
            }
        };
        let options = Options { listener: Some(Arc::new(listener)), ..options };
        let said = Registry::new(options).resolve(&self.reference).await;
        let said = said.map(|descriptor| descriptor.digest.to_string());
        let asked = heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((said, asked))
    }
}

fn explain(found: &Found) {
    match &found.folder {
        Some(folder) => say!("read from {}", folder.display()),
        None => say!("no folder has anything for it: the host is taken from the name"),
    }
    for complaint in &found.complaints {
        say!("{complaint}");
    }
}

fn address(host: &Host) -> String {
    let scheme = match host.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
        Scheme::Either => "https or http",
    };
    let trust = if host.tls.skip_verify { " (not verified)" } else { "" };
    format!("{scheme}://{}{}{trust}", host.host, host.path)
}

fn may(capabilities: Capabilities) -> String {
    let Capabilities { pull, resolve, push, referrers } = capabilities;
    let all = [(pull, "pull"), (resolve, "resolve"), (push, "push"), (referrers, "referrers")];
    let names: Vec<_> = all.iter().filter(|(may, _)| *may).map(|(_, name)| *name).collect();
    names.join(",")
}

/// What was heard while a host was asked.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// Where the credentials are from that it wanted; none if it wanted to know nothing.
    source: Option<String>,
    took: Duration,
}

impl Asked {
    fn note(&mut self, heard: &Heard<'_>) {
        match heard {
            Heard::Credential { credential, .. } => {
                let known = credential.map(|credential| credential.source.clone());
                self.source = Some(known.unwrap_or_else(|| "wanted, none known".to_owned()));
            }
            Heard::Answer { after, .. } => self.took += *after,
            _ => {}
        }
    }

    fn credentials(&self) -> String {
        self.source.clone().unwrap_or_else(|| "not asked for".to_owned())
    }

    fn took(&self) -> String {
        format!("{} ms", self.took.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_is_and_may_do_is_shown_as_it_is_written() {
        let mut host = Host::new(Scheme::Either, "localhost:5000");
        host.tls.skip_verify = true;
        assert_eq!(address(&host), "https or http://localhost:5000/v2 (not verified)");
        host.capabilities.push = false;
        assert_eq!(may(host.capabilities), "pull,resolve,referrers");
    }

    #[test]
    fn credentials_are_shown_by_their_source() {
        let mut asked = Asked::default();
        assert_eq!(asked.credentials(), "not asked for");
        asked.note(&Heard::Credential { host: "r.io", credential: None });
        assert_eq!(asked.credentials(), "wanted, none known");
    }
}
