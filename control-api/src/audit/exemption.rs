//! What is let pass for some: an agent of the node has to mount the node.

use std::str::FromStr;

use super::Finding;

/// Rules that do not hold for the pods of a service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemption {
    namespace: String,
    account: Option<String>,
    rules: Vec<String>,
}

impl FromStr for Exemption {
    type Err = String;

    /// `NAMESPACE/ACCOUNT=RULE,RULE`; `*` for an account means all of the namespace. There is none for all rules, and
    /// none for all namespaces: who wants that turns the audit off, and can see that it is.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not NAMESPACE/ACCOUNT=RULE,RULE");
        let (who, rules) = text.split_once('=').ok_or_else(wrong)?;
        let (namespace, account) = who.split_once('/').ok_or_else(wrong)?;
        let name = |name: &str| !name.is_empty() && crate::auth::check_segment(name);
        if !name(namespace) || (account != "*" && !name(account)) {
            return Err(wrong());
        }
        let rules: Vec<String> = rules.split(',').map(|rule| rule.trim().to_owned()).collect();
        let known = super::rules();
        if let Some(unknown) = rules.iter().find(|rule| !known.iter().any(|known| known.name == **rule)) {
            let names: Vec<&str> = known.iter().map(|rule| rule.name).collect();
            return Err(format!("\"{unknown}\" is no rule; there are {}", names.join(", ")));
        }
        let account = (account != "*").then(|| account.to_owned());
        Ok(Self { namespace: namespace.to_owned(), account, rules })
    }
}

/// Takes the findings out that are let pass.
pub fn apply(exemptions: &[Exemption], (namespace, account): (&str, &str), findings: &mut Vec<Finding>) {
    findings.retain(|finding| {
        !exemptions.iter().any(|exemption| {
            exemption.namespace == namespace
                && exemption.account.as_ref().is_none_or(|name| name == account)
                && exemption.rules.iter().any(|rule| rule == finding.rule.name)
        })
    });
}
