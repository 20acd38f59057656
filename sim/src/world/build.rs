//! Makes the world that a plan describes: machines, lines, disks, identities and content. Nothing runs yet.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
};

use dhtfs_store::disk::PagePool;
use libp2p::{Multiaddr, identity::Keypair, multiaddr::Protocol};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::{Failure, Slot, State, World, disk};
use crate::{
    checks::Checks,
    derive_seed,
    meter::Meter,
    net::{BitRate, Geo, HostId, HostSpec, NatSpec, Net, Position},
    plan::{Geography, Group, MAX_NODES, Nat, Plan},
    record::RunRecord,
    roles::{Hostile, Key, RoleKind, keypair_near},
};

/// The port that every node listens on.
const PORT: u16 = 4343;

/// Bits of the key that the identity of a Sybil shares; 2^11 keys are tried for each, enough to be closer than the hundred honest ones.
const SYBIL_BITS: u32 = 11;

impl World {
    /// Makes the world of `plan`. Everything random in it follows from `seed`.
    ///
    /// # Errors
    /// If the plan makes no sense, or a content cannot be made.
    pub fn new(plan: Plan, seed: u64) -> Result<Rc<Self>, Failure> {
        plan.check()?;
        let net = Net::new(derive_seed(seed, "net"));
        super::trace::attach(&net);
        let pool = PagePool::new();
        let contents = super::contents::make(&plan, seed, &pool)?;
        let mut world = Self {
            seed,
            net,
            checks: Checks::default(),
            record: RefCell::new(RunRecord::default()),
            contents,
            meter: Meter::default(),
            pool,
            slots: RefCell::new(Vec::new()),
            begun: Instant::now(),
            starts: Cell::new(0),
            crashes: Cell::new(0),
            targets: OnceCell::new(),
            last_fault: Cell::new(Instant::now()),
            is_health_checked: Cell::new(false),
            cuts: RefCell::default(),
            weathers: RefCell::default(),
            next_fault: Cell::new(0),
            getting: RefCell::default(),
            steady_gets: RefCell::default(),
            held_gets: RefCell::default(),
            open_gets: RefCell::default(),
            waiting_gets: RefCell::default(),
            fetches: RefCell::default(),
            faults_on: Cell::new(0),
            plan,
        };
        let mut rng = world.rng("hosts");
        for (group, nodes) in world.plan.group_sizes()?.into_iter().enumerate() {
            for _ in 0..nodes {
                let slot = world.slot(group, &mut rng)?;
                world.slots.get_mut().push(slot);
            }
        }
        Ok(Rc::new(world))
    }

    fn slot(&self, group: usize, rng: &mut StdRng) -> Result<Slot, Failure> {
        let index = self.len();
        let settings = &self.plan.groups[group];
        let mut spec = self.host_spec(settings, rng);
        spec.network = settings.subnets.map(|subnets| {
            let place = self.slots.borrow().iter().filter(|slot| slot.group == group).count() % subnets;
            // Numbers of one group do not meet those of another: no group has so many nodes.
            u32::try_from(group * MAX_NODES + place).unwrap_or(u32::MAX)
        });
        let host = self.net.add_host(spec);
        let keypair = self.keypair(index, settings.role)?;
        let peer = keypair.public().to_peer_id();
        let addr = Multiaddr::from(self.net.ip(host)).with(Protocol::Tcp(PORT)).with(Protocol::P2p(peer));
        Ok(Slot {
            group,
            role: settings.role,
            host,
            keypair,
            peer,
            addr,
            disk: disk::new(&self.pool)?,
            exchange_versions: settings.exchange_versions.clone(),
            meter: Arc::default(),
            clock_skew: Arc::default(),
            state: State::Off,
            life: 0,
            is_gone_for_good: false,
            sleeps: 0,
            holds: BTreeMap::new(),
        })
    }

    fn keypair(&self, index: usize, role: RoleKind) -> Result<Keypair, Failure> {
        let seed = derive_seed(self.seed, &format!("key {index}"));
        if let RoleKind::Hostile(Hostile::SybilNear(key)) = role {
            let target = match key {
                Key::Of(cid) => Some(cid),
                Key::FirstTarget => self.contents.first().map(|c| c.root.into()),
            };
            if let Some(target) = target {
                return Ok(keypair_near(target, SYBIL_BITS, seed));
            }
        }
        let mut secret = [0; 32];
        StdRng::seed_from_u64(seed).fill_bytes(&mut secret);
        Ok(Keypair::ed25519_from_bytes(secret)?)
    }

    fn host_spec(&self, group: &Group, rng: &mut StdRng) -> HostSpec {
        let network = &self.plan.network;
        let one_way = network.one_way.duration();
        let position = match network.geography {
            Geography::Flat => Geo::flat(one_way).place(rng),
            Geography::Regions => {
                let place = Geo::five_regions().place(rng);
                Position { access: place.access + one_way / 2, ..place }
            }
        };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be positive and small"
        )]
        let rate = |mbit: Option<f64>| mbit.map(|mbit| BitRate::bits((mbit * 1e6) as u64));
        HostSpec {
            position,
            up: rate(group.up_mbit),
            down: rate(group.down_mbit),
            loss: network.loss,
            jitter: network.jitter.duration(),
            nat: group.nat.map(|nat| nat_spec(nat).into()),
            ..HostSpec::default()
        }
    }

    /// The hosts of all nodes, in order.
    pub fn hosts(&self) -> Vec<HostId> {
        self.slots.borrow().iter().map(|slot| slot.host).collect()
    }
}

fn nat_spec(nat: Nat) -> NatSpec {
    match nat {
        Nat::FullCone => NatSpec::full_cone(),
        Nat::AddressRestricted => NatSpec::address_restricted(),
        Nat::PortRestricted => NatSpec::port_restricted(),
        Nat::PortShifting => NatSpec::port_shifting(),
        Nat::Symmetric => NatSpec::symmetric(),
    }
}
