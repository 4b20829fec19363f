//! What replicas remember together and over restarts: a text in a `ConfigMap`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use super::{KubeError, call};

/// Longest text, in bytes: the API server takes no object above a mebibyte or so.
pub const MAX_BYTES: usize = 900 * 1024;
/// The only entry.
const ENTRY: &str = "content";

/// A text that is kept under a name.
#[derive(Clone, Debug)]
pub struct Memory {
    api: Api<ConfigMap>,
    name: String,
}

impl Memory {
    /// Of this name, in a namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned() }
    }

    /// What is kept; `None` when nothing ever was.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn read(&self) -> Result<Option<String>, KubeError> {
        let kept = call(self.api.get_opt(&self.name)).await?;
        Ok(kept.map(|kept| kept.data.unwrap_or_default().remove(ENTRY).unwrap_or_default()))
    }

    /// Keeps a text instead of what was kept before. Whoever writes last has written.
    ///
    /// # Errors
    /// When the API server does not take it; a text above [`MAX_BYTES`] is not tried.
    pub async fn write(&self, content: &str) -> Result<(), KubeError> {
        if content.len() > MAX_BYTES {
            let reason = format!("{} bytes are more than {MAX_BYTES}", content.len());
            return Err(KubeError::Refused { code: 413, reason });
        }
        let data = BTreeMap::from([(ENTRY.to_owned(), content.to_owned())]);
        let Some(mut kept) = call(self.api.get_opt(&self.name)).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let kept = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            return call(self.api.create(&PostParams::default(), &kept)).await.map(drop);
        };
        kept.data = Some(data);
        call(self.api.replace(&self.name, &PostParams::default(), &kept)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::stand_in::StandIn;

    #[tokio::test]
    async fn what_was_written_is_read_by_all_and_too_much_is_not_tried() {
        let server = StandIn::start().await;
        let memory = Memory::new(server.client(), "mesh", "one");
        assert_eq!(memory.read().await.unwrap(), None);
        for content in ["[\"a\"]", "[]"] {
            memory.write(content).await.unwrap();
            let other = Memory::new(server.client(), "mesh", "one");
            assert_eq!(other.read().await.unwrap().as_deref(), Some(content));
        }
        let long = "x".repeat(MAX_BYTES + 1);
        assert_eq!(memory.write(&long).await.unwrap_err().code(), Some(413));
        assert_eq!(memory.read().await.unwrap().as_deref(), Some("[]"));
    }
}
