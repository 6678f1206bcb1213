//! The disk of the library for Python: `vhost_user_zbd._native`. The package around it has the exceptions and the
//! types.
//!
//! Positions and lengths are in bytes: Python has no types for units, and one unit cannot be mistaken for another.
//! While a disk works the interpreter goes on with other threads.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use vhost_user_zbd::disk::{self, Bytes, CutOutcome, DiskError, Opening, Sector, Shape, ZoneInfo};

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// The exception for an error.
fn raise(py: Python<'_>, error: &DiskError) -> PyErr {
    let make = || -> PyResult<Bound<'_, PyAny>> {
        let errors = py.import("vhost_user_zbd._errors")?;
        match error {
            DiskError::Status { status, rule, words } => {
                errors.getattr("ZoneError")?.call1((*status as u8, rule.name(), words))
            }
            DiskError::Unanswered { .. } => errors.getattr("Unanswered")?.call1((error.to_string(),)),
            _ => errors.getattr("DiskError")?.call1((error.to_string(),)),
        }
    };
    make().map_or_else(|error| error, PyErr::from_value)
}

fn sector(name: &str, at: u64) -> PyResult<Sector> {
    match at % SECTOR {
        0 => Ok(Sector(at / SECTOR)),
        _ => Err(PyValueError::new_err(format!("{name} is {at}: expected a multiple of {SECTOR}"))),
    }
}

/// A zone as a report shows it.
#[pyclass(frozen, eq, get_all, module = "vhost_user_zbd")]
#[derive(Clone, PartialEq, Eq)]
struct Zone {
    index: u32,
    r#type: &'static str,
    state: &'static str,
    start: u64,
    length: u64,
    capacity: u64,
    write_pointer: u64,
}

#[pymethods]
impl Zone {
    /// The bytes below the write pointer.
    #[getter]
    fn written(&self) -> u64 {
        self.write_pointer.saturating_sub(self.start)
    }

    fn __repr__(&self) -> String {
        let Self { index, r#type, state, start, length, capacity, write_pointer } = self;
        format!(
            "Zone(index={index}, type='{type}', state='{state}', start={start}, length={length}, capacity={capacity}, \
             write_pointer={write_pointer})"
        )
    }
}

impl From<ZoneInfo> for Zone {
    fn from(zone: ZoneInfo) -> Self {
        Self {
            index: zone.index.0,
            r#type: zone.kind.name(),
            state: zone.state.name(),
            start: zone.start.0,
            length: zone.len.0,
            capacity: zone.capacity.0,
            write_pointer: zone.write_pointer.0,
        }
    }
}

/// The zones in use, and how many may be.
#[pyclass(frozen, eq, get_all, module = "vhost_user_zbd")]
#[derive(Clone, PartialEq, Eq)]
struct Usage {
    open: u32,
    max_open: u32,
    active: u32,
    max_active: u32,
}

#[pymethods]
impl Usage {
    fn __repr__(&self) -> String {
        let Self { open, max_open, active, max_active } = self;
        format!("Usage(open={open}, max_open={max_open}, active={active}, max_active={max_active})")
    }
}

/// A zoned disk in this process.
#[pyclass(frozen, module = "vhost_user_zbd")]
struct Disk {
    /// None once it has ended.
    disk: Mutex<Option<disk::Disk>>,
}

impl Disk {
    fn made(py: Python<'_>, make: impl FnOnce() -> Result<disk::Disk, DiskError> + Send) -> PyResult<Self> {
        let made = py.detach(make).map_err(|error| raise(py, &error))?;
        Ok(Self { disk: Mutex::new(Some(made)) })
    }

    /// Does something with the disk while other threads of the interpreter go on.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut disk::Disk) -> Result<T, DiskError> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| {
            let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
            disk.as_mut().map(work)
        });
        match done {
            Some(done) => done.map_err(|error| raise(py, &error)),
            None => Err(PyValueError::new_err("the disk has ended")),
        }
    }

    fn look<T: Send>(&self, py: Python<'_>, at: impl FnOnce(&disk::Disk) -> T + Send) -> PyResult<T> {
        self.with(py, |disk| Ok(at(disk)))
    }
}

/// What a new disk looks like, in the words of Python.
struct Wanted {
    zones: u32,
    zone_size: u64,
    zone_capacity: Option<u64>,
    conventional_zones: u32,
    max_open_zones: u32,
    max_active_zones: u32,
    max_append: u64,
    block: u64,
}

impl Wanted {
    fn shape(&self) -> Shape {
        Shape::new(self.zones, Bytes(self.zone_size))
            .zone_capacity(Bytes(self.zone_capacity.unwrap_or(self.zone_size)))
            .conventional_zones(self.conventional_zones)
            .max_open_zones(self.max_open_zones)
            .max_active_zones(self.max_active_zones)
            .max_append(Bytes(self.max_append))
            .block(Bytes(self.block))
    }
}

/// A dictionary of what has fields.
fn to_dict<'py>(py: Python<'py>, outcome: &impl serde::Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(outcome).map_err(|error| PyValueError::new_err(error.to_string()))?;
    py.import("json")?.call_method1("loads", (text,))
}

#[pymethods]
impl Disk {
    /// A new disk in memory.
    #[staticmethod]
    #[pyo3(signature = (zones, zone_size, *, zone_capacity=None, conventional_zones=0, max_open_zones=0,
        max_active_zones=0, max_append=0, block=4096))]
    #[allow(clippy::too_many_arguments, reason = "each is a keyword")]
    fn in_memory(
        py: Python<'_>,
        zones: u32,
        zone_size: u64,
        zone_capacity: Option<u64>,
        conventional_zones: u32,
        max_open_zones: u32,
        max_active_zones: u32,
        max_append: u64,
        block: u64,
    ) -> PyResult<Self> {
        let wanted = Wanted {
            zones,
            zone_size,
            zone_capacity,
            conventional_zones,
            max_open_zones,
            max_active_zones,
            max_append,
            block,
        };
        Self::made(py, || disk::Disk::in_memory(&wanted.shape()))
    }

    /// A new disk in a file that is not there yet.
    #[staticmethod]
    #[pyo3(signature = (path, zones, zone_size, *, zone_capacity=None, conventional_zones=0, max_open_zones=0,
        max_active_zones=0, max_append=0, block=4096))]
    #[allow(clippy::too_many_arguments, reason = "each is a keyword")]
    fn create_image(
        py: Python<'_>,
        path: PathBuf,
        zones: u32,
        zone_size: u64,
        zone_capacity: Option<u64>,
        conventional_zones: u32,
        max_open_zones: u32,
        max_active_zones: u32,
        max_append: u64,
        block: u64,
    ) -> PyResult<Self> {
        let wanted = Wanted {
            zones,
            zone_size,
            zone_capacity,
            conventional_zones,
            max_open_zones,
            max_active_zones,
            max_append,
            block,
        };
        Self::made(py, || disk::Disk::create_image(&path, &wanted.shape()))
    }

    /// The disk of an image, which no other process may be writing to.
    #[staticmethod]
    #[pyo3(signature = (path, *, block=4096, read_only=false))]
    fn open_image(py: Python<'_>, path: PathBuf, block: u64, read_only: bool) -> PyResult<Self> {
        let opening = Opening::default().block(Bytes(block));
        let opening = if read_only { opening.read_only() } else { opening };
        Self::made(py, || disk::Disk::open_image(&path, opening))
    }

    /// How many zones there are.
    #[getter]
    fn zones(&self, py: Python<'_>) -> PyResult<u32> {
        self.look(py, |disk| disk.geometry().nr_zones())
    }

    #[getter]
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |disk| disk.geometry().size().0)
    }

    #[getter]
    fn zone_size(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |disk| disk.geometry().zone_size().0)
    }

    #[getter]
    fn zone_capacity(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |disk| disk.geometry().zone_capacity().0)
    }

    /// The longest append.
    #[getter]
    fn max_append(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |disk| disk.max_append().0)
    }

    /// The unit of writes to sequential zones.
    #[getter]
    fn block(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |disk| disk.block().0)
    }

    /// Bytes that a power cut may take.
    #[getter]
    fn volatile_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, disk::Disk::volatile_bytes)
    }

    #[getter]
    fn has_power(&self, py: Python<'_>) -> PyResult<bool> {
        self.look(py, disk::Disk::has_power)
    }

    fn usage(&self, py: Python<'_>) -> PyResult<Usage> {
        let disk::Usage { open, max_open, active, max_active } = self.look(py, disk::Disk::usage)?;
        Ok(Usage { open, max_open, active, max_active })
    }

    /// Up to max zones, from the one that holds start on.
    #[pyo3(signature = (start=0, max=None))]
    fn report(&self, py: Python<'_>, start: u64, max: Option<usize>) -> PyResult<Vec<Zone>> {
        let start = sector("start", start)?;
        let zones = self.with(py, |disk| disk.report(start, max.unwrap_or(usize::MAX)))?;
        Ok(zones.into_iter().map(Zone::from).collect())
    }

    fn read<'py>(&self, py: Python<'py>, start: u64, length: u64) -> PyResult<Bound<'py, PyBytes>> {
        let start = sector("start", start)?;
        let data = self.with(py, |disk| disk.read(start, Bytes(length)))?;
        Ok(PyBytes::new(py, &data))
    }

    fn write(&self, py: Python<'_>, start: u64, data: PyBackedBytes) -> PyResult<()> {
        let start = sector("start", start)?;
        self.with(py, |disk| disk.write(start, &data))
    }

    /// Writes at the write pointer of the zone that begins at zone. Returns where the data is.
    fn append(&self, py: Python<'_>, zone: u64, data: PyBackedBytes) -> PyResult<u64> {
        let zone = sector("zone", zone)?;
        // Where data is lies on the disk, whose bytes can be counted.
        self.with(py, |disk| disk.append(zone, &data)).map(|at| at.0.saturating_mul(SECTOR))
    }

    fn open(&self, py: Python<'_>, zone: u64) -> PyResult<()> {
        let zone = sector("zone", zone)?;
        self.with(py, |disk| disk.open(zone))
    }

    fn close(&self, py: Python<'_>, zone: u64) -> PyResult<()> {
        let zone = sector("zone", zone)?;
        self.with(py, |disk| disk.close(zone))
    }

    fn finish(&self, py: Python<'_>, zone: u64) -> PyResult<()> {
        let zone = sector("zone", zone)?;
        self.with(py, |disk| disk.finish(zone))
    }

    fn reset(&self, py: Python<'_>, zone: u64) -> PyResult<()> {
        let zone = sector("zone", zone)?;
        self.with(py, |disk| disk.reset(zone))
    }

    fn reset_all(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, disk::Disk::reset_all)
    }

    /// Makes all stable that was answered before.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, disk::Disk::flush)
    }

    /// Cuts the power now, and says what is left.
    #[pyo3(signature = (*, lose=None, keep=None, seed=None, model=None, mgmt=None))]
    fn power_cut<'py>(
        &self,
        py: Python<'py>,
        lose: Option<String>,
        keep: Option<String>,
        seed: Option<u64>,
        model: Option<String>,
        mgmt: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let seed = seed.map(|seed| seed.to_string());
        let said = [("lose", lose), ("keep", keep), ("seed", seed), ("model", model), ("mgmt", mgmt)];
        let words = said.into_iter().filter_map(|(name, value)| Some(format!("{name}={} ", value?)));
        let words: String = words.collect();
        let outcome = self.with(py, |disk| disk.power_cut(&words))?;
        to_dict(py, &outcome)
    }

    /// Cuts the power, and leaves what an earlier cut of a disk with the same past has left.
    fn power_cut_as<'py>(&self, py: Python<'py>, outcome: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let text: String = py.import("json")?.call_method1("dumps", (outcome,))?.extract()?;
        let wrong = |error| PyValueError::new_err(format!("outcome is not what a power cut has returned: {error}"));
        let wanted: CutOutcome = serde_json::from_str(&text).map_err(wrong)?;
        let outcome = self.with(py, |disk| disk.power_cut_as(&wanted))?;
        to_dict(py, &outcome)
    }

    /// Adds a rule by which requests fail, bring wrong bytes, or are held back; or takes zones away at once.
    #[pyo3(signature = (name, which, action))]
    fn fault(&self, py: Python<'_>, name: &str, which: &str, action: &str) -> PyResult<()> {
        self.with(py, |disk| disk.fault(name, which, action))
    }

    /// Removes a rule, or all.
    #[pyo3(signature = (name=None))]
    fn fault_clear(&self, py: Python<'_>, name: Option<&str>) -> PyResult<()> {
        self.with(py, |disk| disk.fault_clear(name))
    }

    /// Lets go what a rule holds back.
    fn fault_release(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.with(py, |disk| disk.fault_release(name))
    }

    /// The rules, with how far they have come, and the zones that were taken away.
    fn faults<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let faults = self.look(py, disk::Disk::faults)?;
        to_dict(py, &faults)
    }

    /// Gives zones back at once: a number, or the first and the last as A-B.
    fn restore_now(&self, py: Python<'_>, zones: &str) -> PyResult<()> {
        self.with(py, |disk| disk.restore_now(zones))
    }

    /// Sets a mark, from which on rules with after=mark:NAME count.
    fn mark(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.with(py, |disk| {
            disk.mark(name);
            Ok(())
        })
    }

    /// The power comes back, as with a reset of the device.
    fn power_on(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |disk| {
            disk.power_on();
            Ok(())
        })
    }

    /// Ends in order; does nothing where it has ended.
    fn end(&self, py: Python<'_>) -> PyResult<()> {
        let ended = py.detach(|| {
            let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner).take();
            disk.map_or(Ok(()), disk::Disk::end)
        });
        ended.map_err(|error| raise(py, &error))
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (_kind=None, _error=None, _trace=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<Bound<'_, PyAny>>,
        _error: Option<Bound<'_, PyAny>>,
        _trace: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.end(py)
    }
}

/// The module.
#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Disk>()?;
    module.add_class::<Zone>()?;
    module.add_class::<Usage>()
}
