/* A plain attempt of a Celery task, measured: what the parts of `_attempts` share.
 *
 * The objects stay those of the Python side (recorder, attempt, scope, segment writer), with their state where it has
 * always been, in slots: what is written here reads and writes the same slots, without the interpreter in between.
 * Whatever is unusual about an attempt is left to the methods in Python, before anything was changed. So both sides may
 * take turns within one attempt, and neither has a state of its own.
 *
 * Everything runs under the GIL, in the main interpreter, in the thread that executes tasks. */
#ifndef TASKWATT_ATTEMPTS_H
#define TASKWATT_ATTEMPTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#ifdef Py_GIL_DISABLED
#error "free-threaded builds of Python measure attempts in pure Python"
#endif
#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "segments are little-endian"
#endif

enum { ASIDE = 0, TAKEN = 1, FAILED = -1 }; /* left to Python with nothing changed; done; an exception is set */

/* slots.c: class, attribute. */
#define SLOTS(X)                                                                                                      \
    X(Recorder, _number) X(Recorder, _cpu_at_exit) X(Recorder, _thread_at_exit) X(Recorder, _exit)                   \
    X(Recorder, _native_threads) X(Recorder, _children_s) X(Recorder, _serialization) X(Recorder, _gc)               \
    X(Recorder, _hook_s) X(Recorder, _span_mode) X(Recorder, _max_rss) X(Recorder, _nothing_yet)                     \
    X(Recorder, _serves) X(Recorder, _sample) X(Recorder, running) X(Recorder, segment)                              \
    X(Running, attempt_no) X(Running, begun) X(Running, body) X(Running, body_cpu) X(Running, cpu)                   \
    X(Running, depth) X(Running, error) X(Running, expected) X(Running, finished_body) X(Running, flags)             \
    X(Running, gap) X(Running, hook_s) X(Running, message) X(Running, others) X(Running, redelivered)                \
    X(Running, sampler) X(Running, sampling_s) X(Running, scope) X(Running, size) X(Running, start)                  \
    X(Running, task) X(Running, task_name) X(Running, wait)                                                          \
    X(Scope, _cover) X(Scope, _token) X(Scope, context_ids) X(Scope, link_ids) X(Scope, mode) X(Scope, parent_id)    \
    X(Scope, recorded) X(Scope, sampled) X(Scope, span)                                                              \
    X(SegmentWriter, _map) X(SegmentWriter, _sequence) X(SegmentWriter, _head) X(SegmentWriter, _tail)               \
    X(SegmentWriter, _full) X(SegmentWriter, _strings) X(SegmentWriter, finished_no) X(SegmentWriter, cpu_at_exit)   \
    X(SegmentWriter, startup_cpu) X(SegmentWriter, none_cpu)                                                         \
    X(Sample, excluded) X(Sample, light)                                                                             \
    X(Meter, serialization) X(Meter, collected) X(Meter, publish)                                                    \
    X(RecordedSpan, _context) X(RecordedSpan, kept) X(UnsampledSpan, _ids)

#define SLOT_NAME(owner, name) owner##_##name,
enum { SLOTS(SLOT_NAME) SLOT_COUNT };
#undef SLOT_NAME

extern Py_ssize_t slot_at[SLOT_COUNT];

#define SLOT(object, which) (*(PyObject **)((char *)(object) + slot_at[which]))

static inline void
put(PyObject *object, int which, PyObject *value) /* steals `value` */
{
    PyObject *before = SLOT(object, which);
    SLOT(object, which) = value;
    Py_XDECREF(before);
}

static inline bool
put_number(PyObject *object, int which, double value)
{
    PyObject *number = PyFloat_FromDouble(value);
    if (number == NULL) {
        return false;
    }
    put(object, which, number);
    return true;
}

static inline bool
number_in(PyObject *object, int which, double *value)
{
    PyObject *number = SLOT(object, which);
    if (number == NULL) {
        PyErr_SetString(PyExc_AttributeError, "a slot that is read was never set");
        return false;
    }
    *value = PyFloat_AsDouble(number);
    return *value != -1.0 || !PyErr_Occurred();
}

bool find_slots(PyObject *parts, Py_ssize_t *at); /* ValueError: what is no slot */

/* module.c: what the Python side handed over; all owned, all NULL before. */
#define PARTS(X)                                                                                                      \
    X(Recorder) X(Running) X(Scope) X(SegmentWriter) X(Sample) X(Meter) X(RecordedSpan) X(UnsampledSpan) X(Context)   \
    X(meter) X(span_key) X(current_context) X(detach) X(trace) X(propagate) X(tracing) X(official) X(modules)           \
    X(active) X(limbo) X(enter_attempt) X(follow_parent) X(getrandbits) X(no_ids)                                     \
    X(begin) X(enter_body) X(leave_body)

#define PART_FIELD(name) PyObject *name;
typedef struct {
    PARTS(PART_FIELD)
} Parts;
#undef PART_FIELD

typedef struct {
    bool provider_named; /* OTEL_PYTHON_TRACER_PROVIDER is set: the Python side knows what that means */
    double waited_s, threads_min_s, subprocess_min_s;
    long hook_every;
    uint8_t useful, success; /* outcome and state of an attempt that ended well */
} Numbers;

extern Parts parts;
extern Numbers numbers;
extern PyObject *no_arguments; /* an empty tuple */

/* segment.c: the bytes of a segment; see taskwatt.segments.layout, which says what they mean. */
enum {
    PROGRESS_AT = 256, READER_AT = 512, IN_FLIGHT_AT = 1024, BODY_AT = 1400, RING_AT = 151552,
    RING_SLOTS = 1024, SLOT_SIZE = 256, SEGMENT_SIZE = RING_AT + RING_SLOTS * SLOT_SIZE, ATTEMPT = 1, SAMPLED = 1,
    REDELIVERED = 2, ID_SPILLED = 8, NO_STRING = 0xFFFF, TASK_ID_SIZE = 36, OWN = 1
};

#pragma pack(push, 1)
typedef struct {
    uint8_t kind, flags;
    uint16_t task;
    char task_id[TASK_ID_SIZE];
    uint8_t trace_id[16], span_id[8], parent_span_id[8], link_trace_id[16], link_span_id[8];
    int64_t start_ns;
    double queue_wait;
    uint64_t attempt_no, body_size;
    uint32_t retries, depth;
    uint16_t nesting, queue;
    uint32_t args_hash;
    uint16_t publisher;
} Begun;

typedef struct {
    double business, serialization, gc, framework, agent, subprocesses;
} Split;

typedef struct {
    double duration, retry_delay;
    Split cpu;
    uint64_t max_rss;
    uint8_t outcome, state;
    uint32_t spill_length;
    uint64_t spill_at;
} Ended;
#pragma pack(pop)

bool is_segment(PyObject *segment); /* TypeError: it is none */
bool open_segment(PyObject *segment, Py_buffer *memory); /* to be released; ValueError: it is closed */
void note_begun(Py_buffer *memory, const Begun *begun, const char *nothing_yet, uint64_t attempt_no, double cpu,
                double children_s);
void note_body(Py_buffer *memory, uint64_t attempt_no, double cpu);
uint64_t asked_for_code_until(Py_buffer *memory);
int note_ended(PyObject *segment, Py_buffer *memory, const char *begun, const Ended *ended, PyObject *attempt_no,
               PyObject *cpu); /* ASIDE: the ring is full */
int index_of(PyObject *segment, PyObject *name, uint16_t *index);

/* crc.c */
uint32_t crc32_of(uint32_t before, const void *data, size_t size);

/* message.c */
typedef struct {
    PyObject *queue, *traceparent, *previous; /* owned; NULL: there is none */
    bool redelivered;
    bool other_headers; /* `baggage` or `tracestate`: more than the light scope reads */
    uint32_t retries, nesting;
    double published; /* NaN: unknown */
    Py_ssize_t size;
} Message;

bool name_headers(void);
int read_message(PyObject *request, PyObject *body, Message *message); /* fills it in whatever it gives */
void forget_message(Message *message);

/* scope.c */
PyObject *enter_scope(PyObject *task, PyObject *request, const Message *message, int64_t now_ns, PyObject *sample);
bool leave_scope(PyObject *scope);
bool is_official(void); /* is opentelemetry-instrumentation-celery imported here? */
int parse_traceparent(PyObject *value, uint8_t ids[24], int *flags); /* TAKEN; ASIDE: not in its usual form */

/* clocks.c */
int64_t wall_ns(void);
double wall_clock(void);
double process_clock(void);
double thread_clock(void);
bool read_meter(double *serialization, double *collected, double *publish); /* `publish` may be NULL */

/* timed.c */
extern PyTypeObject TimedType;

/* attempt.c, ending.c: methods of the recorder */
PyObject *begin(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *enter_body(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *leave_body(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *end_plainly(PyObject *self, PyObject *const *arguments, Py_ssize_t count);

static inline bool
is_run(PyObject *object)
{
    return object != NULL && Py_IS_TYPE(object, (PyTypeObject *)parts.Running);
}

#endif
