//! Starting and ending of roles.
