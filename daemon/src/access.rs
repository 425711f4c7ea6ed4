//! Who may do what: two roles, and who holds them.
//!
//! A [`Principal`] is who calls, by the word of the kernel, a certificate or a token. [`Grants`] says which role
//! it holds. What each call requires is one table in `rpc::gate`.
//!
//! **Invariant:** pure, but for the look-up of names in the system's user database.

use std::fmt;
use std::str::FromStr;

use nix::unistd::{Gid, Group, Uid, User};
use sha2::{Digest as _, Sha256};

use crate::units::Digest;

/// Members may use models, where nothing else is configured.
pub const DEFAULT_USE_GROUP: &str = "hearth";

/// Members may manage, where nothing else is configured.
pub const DEFAULT_MANAGE_GROUP: &str = "hearth-admin";

/// What a caller may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Chat, count, render, list, look at the status.
    Use,
    /// Also import, remove, load, unload and change what is logged.
    Manage,
}

/// Who holds which role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who may use.
    pub using: Vec<Grantee>,
    /// Who may manage.
    pub managing: Vec<Grantee>,
    /// Names and roles of programs that come over TCP.
    pub tokens: Vec<Token>,
}

/// One or several callers, as a configuration names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// A user by number.
    Uid(u32),
    /// A user by name.
    User(String),
    /// A group by number.
    Gid(u32),
    /// A group by name.
    Group(String),
    /// A client certificate by its common name or an alternative one.
    Certificate(String),
    /// Anyone who comes over plain TCP, which is loopback.
    Loopback,
}

/// A secret that names a caller; only its digest is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What the caller is called in logs.
    pub name: String,
    /// SHA-256 of the token's text.
    pub digest: Digest,
    /// What the caller may do.
    pub role: Role,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A process of this machine, by the kernel's word.
    Local {
        /// Its user.
        uid: u32,
        /// Its group, and those that its user belongs to.
        gids: Vec<u32>,
    },
    /// The holder of a client certificate.
    Certificate {
        /// The names in it.
        names: Vec<String>,
    },
    /// The holder of a token, by the token's name.
    Token(String),
    /// Somebody on loopback without a name.
    Loopback,
    /// Somebody on the network without a name.
    Stranger,
}

/// Which roles are held, with names looked up.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    using: Holders,
    managing: Holders,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, Default)]
struct Holders {
    uids: Vec<u32>,
    gids: Vec<u32>,
    certificates: Vec<String>,
    loopback: bool,
}

/// A name that this system does not know: it grants nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: this system knows no {grantee}, so it grants nothing")]
pub struct UnknownName {
    /// `access.use` or `access.manage`.
    pub key: &'static str,
    /// The name.
    pub grantee: Grantee,
}

/// Why a text is not a [`Role`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a role: there are use and manage")]
pub struct BadRole(pub String);

/// Why a text is not a [`Grantee`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` names nobody: write group:NAME, user:NAME, gid:N, uid:N, certificate:NAME or loopback")]
pub struct BadGrantee(pub String);

impl Default for Config {
    fn default() -> Self {
        Self {
            using: vec![Grantee::Group(DEFAULT_USE_GROUP.to_owned())],
            managing: vec![Grantee::Group(DEFAULT_MANAGE_GROUP.to_owned())],
            tokens: Vec::new(),
        }
    }
}

impl Config {
    /// Whether the socket must be open to all users, since roles are granted to others than the groups that a
    /// packaged daemon has.
    pub fn reaches_beyond_the_group(&self) -> bool {
        let default = Self::default();
        let known = |grantee: &Grantee| default.using.contains(grantee) || default.managing.contains(grantee);
        self.using.iter().chain(&self.managing).any(|grantee| {
            matches!(grantee, Grantee::Uid(_) | Grantee::User(_) | Grantee::Gid(_) | Grantee::Group(_))
                && !known(grantee)
        })
    }
}

impl Grants {
    /// Looks the names up. Root and the daemon's own user `own` may do everything.
    pub fn resolve(config: &Config, own: u32) -> (Self, Vec<UnknownName>) {
        let mut unknown = Vec::new();
        let mut holders = |key, grantees: &[Grantee]| {
            let (holders, missing) = Holders::resolve(grantees);
            unknown.extend(missing.into_iter().map(|grantee| UnknownName { key, grantee }));
            holders
        };
        let using = holders("access.use", &config.using);
        let mut managing = holders("access.manage", &config.managing);
        managing.uids.extend([0, own]);
        // A default names groups that a machine need not have.
        let defaults = Config::default();
        unknown.retain(|UnknownName { grantee, .. }| {
            !defaults.using.contains(grantee) && !defaults.managing.contains(grantee)
        });
        (Self { using, managing, tokens: config.tokens.clone() }, unknown)
    }

    /// The role of a caller, if it has one.
    pub fn role_of(&self, principal: &Principal) -> Option<Role> {
        if let Principal::Token(name) = principal {
            return self.tokens.iter().find(|token| token.name == *name).map(|token| token.role);
        }
        if self.managing.hold(principal) {
            return Some(Role::Manage);
        }
        self.using.hold(principal).then_some(Role::Use)
    }

    /// Who shows this token. Digests are compared, so that time tells nothing of the token.
    pub fn token(&self, text: &str) -> Option<Principal> {
        let digest = digest_of(text);
        let token = self.tokens.iter().find(|token| token.digest == digest);
        token.map(|token| Principal::Token(token.name.clone()))
    }
}

/// What the configuration keeps of a token.
pub fn digest_of(token: &str) -> Digest {
    Digest(Sha256::digest(token).into())
}

impl Holders {
    fn resolve(grantees: &[Grantee]) -> (Self, Vec<Grantee>) {
        let mut holders = Self::default();
        let missing = grantees.iter().filter(|grantee| !holders.add(grantee)).cloned().collect();
        (holders, missing)
    }

    /// Whether the grantee is known.
    fn add(&mut self, grantee: &Grantee) -> bool {
        match grantee {
            Grantee::Uid(uid) => self.uids.push(*uid),
            Grantee::Gid(gid) => self.gids.push(*gid),
            Grantee::Certificate(name) => self.certificates.push(name.clone()),
            Grantee::Loopback => self.loopback = true,
            Grantee::User(name) => match User::from_name(name) {
                Ok(Some(user)) => self.uids.push(user.uid.as_raw()),
                Ok(None) | Err(_) => return false,
            },
            Grantee::Group(name) => match Group::from_name(name) {
                Ok(Some(group)) => self.gids.push(group.gid.as_raw()),
                Ok(None) | Err(_) => return false,
            },
        }
        true
    }

    fn hold(&self, principal: &Principal) -> bool {
        match principal {
            Principal::Local { uid, gids } => {
                self.uids.contains(uid) || gids.iter().any(|gid| self.gids.contains(gid))
            }
            Principal::Certificate { names } => names.iter().any(|name| self.certificates.contains(name)),
            Principal::Loopback => self.loopback,
            Principal::Token(_) | Principal::Stranger => false,
        }
    }
}

/// The groups of a process: the one it runs under, and those of its user by the system's database. A process
/// that was given others is known by these all the same: the kernel tells no more.
pub fn groups_of(uid: u32, gid: u32) -> Vec<u32> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let name = user.and_then(|user| std::ffi::CString::new(user.name).ok());
    let listed = name.and_then(|name| nix::unistd::getgrouplist(&name, Gid::from_raw(gid)).ok());
    let mut gids: Vec<u32> = listed.unwrap_or_default().into_iter().map(Gid::as_raw).collect();
    if !gids.contains(&gid) {
        gids.push(gid);
    }
    gids
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Use => "use",
            Self::Manage => "manage",
        })
    }
}

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, BadRole> {
        match text {
            "use" => Ok(Self::Use),
            "manage" => Ok(Self::Manage),
            _ => Err(BadRole(text.to_owned())),
        }
    }
}

impl fmt::Display for Grantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Gid(gid) => write!(f, "gid:{gid}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Certificate(name) => write!(f, "certificate:{name}"),
            Self::Loopback => f.write_str("loopback"),
        }
    }
}

impl FromStr for Grantee {
    type Err = BadGrantee;

    fn from_str(text: &str) -> Result<Self, BadGrantee> {
        let bad = || BadGrantee(text.to_owned());
        let number = |text: &str| text.parse::<u32>().map_err(|_| bad());
        match text.split_once(':') {
            None if text == "loopback" => Ok(Self::Loopback),
            Some((_, "")) | None => Err(bad()),
            Some(("uid", uid)) => Ok(Self::Uid(number(uid)?)),
            Some(("gid", gid)) => Ok(Self::Gid(number(gid)?)),
            Some(("user", name)) => Ok(Self::User(name.to_owned())),
            Some(("group", name)) => Ok(Self::Group(name.to_owned())),
            Some(("certificate", name)) => Ok(Self::Certificate(name.to_owned())),
            Some(_) => Err(bad()),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, gids: _ } => write!(f, "uid {uid}"),
            Self::Certificate { names } => write!(f, "certificate {}", names.join(", ")),
            Self::Token(name) => write!(f, "token {name}"),
            Self::Loopback => f.write_str("loopback"),
            Self::Stranger => f.write_str("a stranger"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 990;

    fn grants(using: &[&str], managing: &[&str]) -> Grants {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a grantee")).collect();
        let token = Token { name: "panel".to_owned(), digest: digest_of("secret"), role: Role::Use };
        let config = Config { using: parse(using), managing: parse(managing), tokens: vec![token] };
        let (grants, unknown) = Grants::resolve(&config, OWN);
        assert_eq!(unknown, []);
        grants
    }

    fn local(uid: u32, gids: &[u32]) -> Principal {
        Principal::Local { uid, gids: gids.to_vec() }
    }

    #[test]
    fn roles_follow_numbers_names_and_certificates() {
        let grants = grants(&["gid:44", "uid:1000", "certificate:kiosk"], &["uid:1001", "group:root"]);
        let role = |principal: &Principal| grants.role_of(principal);
        assert_eq!(role(&local(1000, &[1000])), Some(Role::Use));
        assert_eq!(role(&local(7, &[7, 44])), Some(Role::Use));
        assert_eq!(role(&local(1001, &[1])), Some(Role::Manage));
        assert_eq!(role(&local(8, &[0])), Some(Role::Manage));
        assert_eq!(role(&local(8, &[8])), None);
        assert_eq!(role(&Principal::Certificate { names: vec!["kiosk".to_owned()] }), Some(Role::Use));
        assert_eq!(role(&Principal::Certificate { names: vec!["other".to_owned()] }), None);
        assert_eq!((role(&Principal::Loopback), role(&Principal::Stranger)), (None, None));
    }

    #[test]
    fn root_and_the_daemon_itself_may_do_everything() {
        let grants = grants(&[], &[]);
        assert_eq!(grants.role_of(&local(0, &[])), Some(Role::Manage));
        assert_eq!(grants.role_of(&local(OWN, &[])), Some(Role::Manage));
        assert!(Role::Manage > Role::Use);
    }

    #[test]
    fn a_token_is_known_by_its_text_alone() {
        let grants = grants(&[], &[]);
        let panel = grants.token("secret").expect("a known token");
        assert_eq!((panel.to_string(), grants.role_of(&panel)), ("token panel".to_owned(), Some(Role::Use)));
        assert_eq!(grants.token("Secret"), None);
        assert_eq!(grants.token(""), None);
    }

    #[test]
    fn names_that_the_system_does_not_know_grant_nothing_and_are_told() {
        let grantee = Grantee::Group("no-such-group-here".to_owned());
        let config = Config { using: vec![grantee.clone()], ..Config::default() };
        let (grants, unknown) = Grants::resolve(&config, OWN);
        assert_eq!(unknown, [UnknownName { key: "access.use", grantee }]);
        assert_eq!(grants.role_of(&local(1000, &[1000])), None);
    }

    #[test]
    fn a_grantee_reads_what_it_prints() {
        for text in ["uid:1", "gid:2", "user:a", "group:b", "certificate:CN x", "loopback"] {
            assert_eq!(text.parse::<Grantee>().map(|grantee| grantee.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "bob", "uid:x", "uid:-1", "group:", "everyone", "role:use"] {
            assert!(bad.parse::<Grantee>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_process_is_in_its_own_group_at_least() {
        assert!(groups_of(0, 0).contains(&0));
        assert_eq!(groups_of(4_000_000, 4_000_001), [4_000_001]);
    }
}
