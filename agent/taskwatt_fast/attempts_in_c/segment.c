/* The hot side of a segment, as SegmentWriter has it: plain numbers into mapped memory. A reader in another process may
 * look at any time: what it finds whole is whole by its checksum, and a record's bytes come before the number that
 * tells of them. */
#include "attempts.h"

_Static_assert(sizeof(Begun) == 146 && sizeof(Ended) == 86, "as layout.RECORD");

typedef struct {
    char bytes[12 + sizeof(Begun) + sizeof(Ended)];
} Slot;

typedef struct {
    char bytes[28 + sizeof(Begun) + sizeof(Ended)];
} InFlight;

bool
is_segment(PyObject *segment)
{
    if (segment == NULL || !PyObject_TypeCheck(segment, (PyTypeObject *)parts.SegmentWriter)) {
        PyErr_SetString(PyExc_TypeError, "no segment to write to");
        return false;
    }
    return true;
}

bool
open_segment(PyObject *segment, Py_buffer *memory)
{
    if (!is_segment(segment)) {
        return false;
    }
    PyObject *map = SLOT(segment, SegmentWriter__map);
    if (map == NULL || PyObject_GetBuffer(map, memory, PyBUF_WRITABLE) < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "a segment without memory");
        }
        return false;
    }
    if (memory->len < SEGMENT_SIZE) {
        PyBuffer_Release(memory);
        PyErr_SetString(PyExc_ValueError, "a segment that is too short");
        return false;
    }
    return true;
}

static inline void
store(char *at, uint64_t value) /* aligned: a reader meets each number whole */
{
    __atomic_store_n((uint64_t *)(void *)at, value, __ATOMIC_RELAXED);
}

static inline uint64_t
bits(double value)
{
    uint64_t same;
    memcpy(&same, &value, 8);
    return same;
}

void
note_begun(Py_buffer *memory, const Begun *begun, const char *nothing_yet, uint64_t attempt_no, double cpu,
           double children_s)
{
    InFlight all;
    char *at = all.bytes + 4;
    memcpy(at, &attempt_no, 8);
    memcpy(at + 8, &cpu, 8);
    memcpy(at + 16, &children_s, 8);
    memcpy(at + 24, begun, sizeof(Begun));
    memcpy(at + 24 + sizeof(Begun), nothing_yet, sizeof(Ended));
    uint32_t sum = crc32_of(0, at, sizeof(all) - 4);
    memcpy(all.bytes, &sum, 4);
    memcpy((char *)memory->buf + IN_FLIGHT_AT, &all, sizeof(all));
}

void
note_body(Py_buffer *memory, uint64_t attempt_no, double cpu)
{
    char *at = (char *)memory->buf + BODY_AT;
    store(at + 8, bits(cpu));
    __atomic_thread_fence(__ATOMIC_RELEASE);
    store(at, attempt_no); /* with another attempt's number the time means nothing */
}

uint64_t
asked_for_code_until(Py_buffer *memory)
{
    return __atomic_load_n((uint64_t *)(void *)((char *)memory->buf + READER_AT + 8), __ATOMIC_RELAXED);
}

static bool
whole_in(PyObject *object, int which, uint64_t *value)
{
    PyObject *number = SLOT(object, which);
    if (number == NULL || !PyLong_Check(number)) {
        PyErr_SetString(PyExc_TypeError, "a segment's number is none");
        return false;
    }
    *value = PyLong_AsUnsignedLongLong(number);
    return *value != (uint64_t)-1 || !PyErr_Occurred();
}

static bool
put_whole(PyObject *object, int which, uint64_t value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    if (number == NULL) {
        return false;
    }
    put(object, which, number);
    return true;
}

static int
has_room(PyObject *segment, Py_buffer *memory)
{
    uint64_t head, tail, full;
    if (!whole_in(segment, SegmentWriter__head, &head) || !whole_in(segment, SegmentWriter__tail, &tail)
        || !whole_in(segment, SegmentWriter__full, &full)) {
        return FAILED;
    }
    if ((int64_t)(head - tail) < (int64_t)full) {
        return TAKEN;
    }
    tail = __atomic_load_n((uint64_t *)(void *)((char *)memory->buf + READER_AT), __ATOMIC_ACQUIRE);
    if (!put_whole(segment, SegmentWriter__tail, tail)) {
        return FAILED;
    }
    return (int64_t)(head - tail) < (int64_t)full ? TAKEN : ASIDE;
}

int
note_ended(PyObject *segment, Py_buffer *memory, const char *begun, const Ended *ended, PyObject *attempt_no,
           PyObject *cpu)
{
    int room = has_room(segment, memory);
    if (room != TAKEN) {
        return room;
    }
    double startup_cpu, none_cpu;
    uint64_t number = PyLong_AsUnsignedLongLong(attempt_no);
    if ((number == (uint64_t)-1 && PyErr_Occurred()) || !number_in(segment, SegmentWriter_startup_cpu, &startup_cpu)
        || !number_in(segment, SegmentWriter_none_cpu, &none_cpu)) {
        return FAILED;
    }
    PyObject *next = PyIter_Next(SLOT(segment, SegmentWriter__sequence)); /* shared with writers in other threads */
    if (next == NULL) {
        return FAILED;
    }
    uint64_t sequence = PyLong_AsUnsignedLongLong(next);
    if (sequence == (uint64_t)-1 && PyErr_Occurred()) {
        Py_DECREF(next);
        return FAILED;
    }
    Slot slot;
    memcpy(slot.bytes, &sequence, 8);
    memcpy(slot.bytes + 12, begun, sizeof(Begun));
    memcpy(slot.bytes + 12 + sizeof(Begun), ended, sizeof(Ended));
    uint32_t sum = crc32_of((uint32_t)sequence, slot.bytes + 12, sizeof(slot) - 12);
    memcpy(slot.bytes + 8, &sum, 4);
    memcpy((char *)memory->buf + RING_AT + sequence % RING_SLOTS * SLOT_SIZE, &slot, sizeof(slot));
    put(segment, SegmentWriter__head, next);
    put(segment, SegmentWriter_finished_no, Py_NewRef(attempt_no));
    put(segment, SegmentWriter_cpu_at_exit, Py_NewRef(cpu));
    __atomic_thread_fence(__ATOMIC_RELEASE);
    char *progress = (char *)memory->buf + PROGRESS_AT;
    store(progress, sequence);
    store(progress + 8, number);
    store(progress + 16, bits(PyFloat_AS_DOUBLE(cpu)));
    store(progress + 24, bits(startup_cpu));
    store(progress + 32, bits(none_cpu));
    return TAKEN;
}

int
index_of(PyObject *segment, PyObject *name, uint16_t *index)
{
    if (!is_segment(segment)) {
        return FAILED;
    }
    PyObject *known = PyDict_GetItemWithError(SLOT(segment, SegmentWriter__strings), name);
    if (known == NULL && PyErr_Occurred()) {
        return FAILED;
    }
    Py_XINCREF(known);
    if (known == NULL && (known = PyObject_CallMethod(segment, "string", "O", name)) == NULL) {
        return FAILED;
    }
    unsigned long value = PyLong_AsUnsignedLong(known);
    Py_DECREF(known);
    if (value == (unsigned long)-1 && PyErr_Occurred()) {
        return FAILED;
    }
    *index = (uint16_t)value;
    return TAKEN;
}
