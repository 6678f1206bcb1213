use std::sync::mpsc;

use super::*;
use crate::power::Power;
use crate::power::switch::enter;
use crate::qcow2::reverting::HEAD;
use crate::qcow2::{self, ByteOrder, CreateOptions};
use crate::storage::memory::MemoryMedium;
use crate::store::{OpenOptions, ZonedStore};
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::GeometryRequest;

const ZONE: u64 = 64 << 10;

struct Rig {
    image: Arc<MemoryMedium>,
    store: Arc<ZonedStore<MemoryMedium>>,
    switch: Arc<Switch>,
    standstill: Standstill,
    router: Router,
}

fn rig() -> Rig {
    let geometry = GeometryRequest {
        size: Bytes(16 * ZONE),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(ZONE),
        conventional_zones: 0,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(4096),
    };
    let image = Arc::new(MemoryMedium::default());
    let options = CreateOptions { geometry, cluster_size: Bytes(4096), table_order: ByteOrder::Big };
    qcow2::create(&*image, &options).unwrap();
    let options = OpenOptions { read_only: false, write_granularity: Bytes(512), hold_resets: false };
    let store = Arc::new(ZonedStore::open(Arc::clone(&image), options).unwrap());
    let switch = Arc::new(Switch::new(1));
    let standstill = Standstill::new(Arc::clone(&switch));
    Rig { image, store, switch, standstill, router: Router::new(Vec::new()) }
}

impl Rig {
    fn begin(&self, order: Order) -> mpsc::Receiver<Result<Outcome, Failure>> {
        let (tell, told) = mpsc::channel();
        let done = move |result| tell.send(result).unwrap();
        self.standstill.begin(order, Box::new(|| Ok(())), Box::new(done)).unwrap();
        told
    }

    fn go_on(&self) -> bool {
        self.standstill.go_on(&*self.store, None, &self.router)
    }

    /// An image whose first zone is written so far.
    fn saved(&self, pointer: Bytes) -> MemoryMedium {
        let saved = Arc::new((*self.image).clone());
        let image = qcow2::Image::open(Arc::clone(&saved), qcow2::Access::ReadWrite).unwrap();
        image.pointer_table().store(ZoneIndex(0), pointer).unwrap();
        (*saved).clone()
    }

    /// A revert to an image; what replaces the content calls `meanwhile` first.
    fn revert(
        &self,
        saved: MemoryMedium,
        then: Then,
        meanwhile: impl Fn(&Switch) -> io::Result<()> + Send + 'static,
    ) -> Order {
        let saved = Arc::new(saved);
        let (from, to, switch) = (Arc::clone(&saved), Arc::clone(&self.image), Arc::clone(&self.switch));
        let replace = move |_: FileRange| {
            meanwhile(&switch)?;
            let len = from.len()?;
            let mut bytes = vec![0; len.0.saturating_sub(HEAD.0) as usize];
            from.read_at(FileOffset(HEAD.0), &mut bytes)?;
            to.write_at(FileOffset(HEAD.0), &bytes)?;
            to.set_len(len)?;
            Ok(Method::Data)
        };
        Order::Revert { saved, name: "a".to_owned(), then, replace: Box::new(replace) }
    }

    fn written(&self) -> u64 {
        self.store.zone_now(Bytes(0).to_sector()).unwrap().info.write_pointer.0
    }
}

fn failure(told: &mpsc::Receiver<Result<Outcome, Failure>>) -> Failure {
    told.try_recv().unwrap().unwrap_err()
}

#[test]
fn a_copy_is_made_when_no_queue_has_anything_in_flight_and_then_requests_go_on() {
    let rig = rig();
    let gate = rig.switch.gate(0);
    *enter(&gate) = 2;
    let switch = Arc::clone(&rig.switch);
    let copy = move |_: &dyn Fn() -> bool| {
        assert_eq!(switch.power(), Power::Still);
        Ok(Method::Reflink)
    };
    let told = rig.begin(Order::Save { copy: Box::new(copy) });
    assert!(!rig.go_on() && told.try_recv().is_err());
    assert_eq!(rig.switch.power(), Power::Frozen);
    let second = Order::Save { copy: Box::new(|_| Ok(Method::Data)) };
    assert!(rig.standstill.begin(second, Box::new(|| Ok(())), Box::new(|_| ())).is_none(), "one at a time");
    *enter(&gate) = 0;
    assert!(rig.go_on() && !rig.go_on());
    assert_eq!(told.try_recv().unwrap().unwrap().method, Method::Reflink);
    assert_eq!(rig.switch.power(), Power::On);
}

#[test]
fn what_comes_with_no_sense_or_fails_or_is_given_up_has_requests_go_on() {
    let rig = rig();
    let failing = Order::Save { copy: Box::new(|_| Err(io::ErrorKind::StorageFull.into())) };
    let told = rig.begin(failing);
    assert!(rig.go_on());
    assert!(failure(&told).to_string().starts_with("the image cannot be copied: "));
    let endless = |go_on: &dyn Fn() -> bool| match go_on() {
        true => Ok(Method::Data),
        false => Err(io::ErrorKind::Interrupted.into()),
    };
    let told = rig.begin(Order::Save { copy: Box::new(endless) });
    rig.standstill.give_up();
    assert!(rig.go_on());
    assert_eq!(failure(&told), Failure::Refused(GIVEN_UP.to_owned()));
    let (tell, told) = mpsc::channel();
    let copy = Order::Save { copy: Box::new(endless) };
    rig.standstill.begin(copy, Box::new(|| Err("no".to_owned())), Box::new(move |result| tell.send(result).unwrap()));
    assert!(rig.go_on());
    assert_eq!(failure(&told), Failure::Refused("no".to_owned()));
    assert_eq!(rig.switch.power(), Power::On);
}

#[test]
fn after_a_revert_the_power_is_off_until_the_device_is_reset_also_where_that_comes_meanwhile() {
    for (then, off) in [(Then::Dead, Power::Dead), (Then::Fail, Power::Failing)] {
        let rig = rig();
        let written = rig.saved(Bytes(4096));
        let order = rig.revert(written, then, move |switch| {
            assert_eq!(switch.power(), off);
            Ok(())
        });
        let told = rig.begin(order);
        assert!(rig.go_on());
        assert!(told.try_recv().unwrap().is_ok());
        assert_eq!((rig.written(), rig.switch.power()), (4096, off));
        // Again, with the power off, and reset in the midst.
        let empty = rig.saved(Bytes(0));
        let order = rig.revert(empty, then, |switch| {
            assert!(switch.device_reset());
            assert_eq!(switch.power(), Power::Still, "not before the image is there");
            Ok(())
        });
        let told = rig.begin(order);
        assert!(rig.go_on());
        assert!(told.try_recv().unwrap().is_ok());
        assert_eq!((rig.written(), rig.switch.power()), (0, Power::On));
        rig.store.close().unwrap();
    }
}

#[test]
fn a_revert_that_fails_in_the_midst_leaves_no_image_and_no_power_for_ever() {
    let rig = rig();
    let order = rig.revert(rig.saved(Bytes(0)), Then::Fail, |_| Err(io::ErrorKind::StorageFull.into()));
    let told = rig.begin(order);
    assert!(rig.go_on());
    assert!(matches!(failure(&told), Failure::Lost(reason) if reason.contains("copy that over it")));
    rig.switch.device_reset();
    assert_ne!(rig.switch.power(), Power::On);
    assert!(rig.store.close().is_err());
    let mut first = [0; 7];
    rig.image.read_at(FileOffset(0), &mut first).unwrap();
    assert_eq!(&first, b"zbdrvrt", "nothing was written since");
}
