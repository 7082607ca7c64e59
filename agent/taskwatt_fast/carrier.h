/* One step of an event loop, measured: what the parts of the accelerator share.
 *
 * The algorithm is that of the pure-Python carrier. A step is cut into pieces wherever the one who pays changes: at its
 * begin and end, where an eager task begins and ends inside of it, and where an account is opened or closed. A piece's
 * CPU is its wall time, unless it took longer than LONG_NS: only then the thread's CPU clock is read (ten times the
 * cost), and what the thread did not get since that clock was last read is taken off. A wait of more than GAP_NS
 * between steps makes the next step read it anew.
 *
 * Everything runs under the GIL, in the main interpreter. Nothing on the stack is pointed to from elsewhere: a greenlet
 * may take the stack away in the middle of a step. */
#ifndef TASKWATT_CARRIER_H
#define TASKWATT_CARRIER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifdef Py_GIL_DISABLED
#error "free-threaded builds of Python are measured by the pure-Python carrier"
#endif

/* The compiler's option says it of what a file defines; this, of what it declares: each use is an instruction less. */
#pragma GCC visibility push(hidden)

typedef int64_t nanoseconds;

enum { LONG_NS = 50000, GAP_NS = 50000, DEPTH = 24, COSTS = 32 };

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* A long step: how many tasks were alive, and its CPU. */
typedef struct {
    long alive;
    nanoseconds cpu;
} Cost;

/* What one coroutine or callback type used since it was last added to its owner. */
typedef struct {
    PyObject_HEAD
    PyObject *owner;
    uint64_t steps, self_wakes, started, completed, failed, cancelled;
    nanoseconds wall, cpu, own, longest;
    int32_t until_look;
    int costs;
    Cost *cost; /* COSTS of them; NULL until there is one */
} Figures;

/* A step that runs. In the clock, not on the stack. */
typedef struct {
    Figures *figures; /* owned */
    PyObject *running; /* owned: the handle, or what a loop without Python handles calls */
    nanoseconds start, nested, cpu, unbilled;
    uint64_t serial;
} Step;

/* The clock of one thread that runs a loop. */
typedef struct {
    PyObject_HEAD
    PyThreadState *thread;
    uint64_t installation; /* in which it was attached */
    nanoseconds piece; /* where the running piece began */
    nanoseconds end; /* of the last step */
    nanoseconds cpu_base, wall_base; /* both clocks when that of the CPU was last read */
    uint64_t serial;
    PyObject *stamped; /* a handle to look at when it runs; NULL: none */
    long alive; /* tasks that began a step here and have not ended */
    int depth;
    char detail; /* somebody else's ledger pays for what runs here */
    Step step[DEPTH];
} Clock;

/* Who pays: a request, a labelled block, a span. */
typedef struct Account {
    PyObject_HEAD
    struct Account *around; /* owned */
    struct Account *row; /* who pays for it in the ledger: itself, or owned; NULL: nobody does */
    PyObject *name, *outcome;
    PyObject *token; /* of a row that was opened where nothing was current, while it is open */
    double cpu, own, booked; /* seconds: paid by it and within it, as a row, and of that what is in the table */
    PyObject *names, *prefix, *source; /* a request's: see taskwatt_web/request.py */
    uint64_t route;
    long status;
    nanoseconds opened;
    struct Account *newer, *older; /* in the list of open rows */
    char listed, closed;
} Account;

/* A step as its hook knows it, across the call that it measures. */
typedef struct {
    Clock *clock; /* owned; NULL: not measured */
    PyObject *task; /* borrowed: to be asked how it ended; NULL for a callback */
    uint64_t serial;
    int index;
    bool pure; /* the task is one in pure Python */
} Entry;

/* Where CPython keeps what the hooks read, found on live objects (layout.c). */
typedef struct {
    PyTypeObject *step_type; /* TaskStepMethWrapper */
    PyTypeObject *task_type;
    PyMethodDef *wakeup;
    Py_ssize_t step_task, task_coro, task_state, task_exception;
    Py_ssize_t coro_code, coro_name, coro_state;
    signed char coro_created;
    int32_t task_cancelled, task_finished;
    Py_ssize_t handle_callback, handle_args, handle_context;
} Layout;

/* The Python side; every one owned, all NULL while nothing is installed. See accelerator.py. */
typedef struct {
    PyObject *resolve, *adopt, *look, *slow, *broken;
    PyObject *protocol_calls; /* a tuple of code: methods of transports that are named by their protocol */
    PyObject *wrapping_protocol; /* the class of protocols that call another one (TLS) */
    PyObject *pure_steps; /* a tuple of code: the steps of tasks in pure Python */
    PyObject *account; /* the ContextVar, or NULL while there are no accounts */
} Hooks;

extern PyTypeObject FiguresType, ClockType, AccountType, WaitType;
extern Layout layout;
extern Hooks hooks;
extern nanoseconds slow_ns;
extern bool measuring;
extern PyInterpreterState *home;
extern _Thread_local Clock *current_clock; /* owned by the thread's attachment */

static inline nanoseconds
wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (nanoseconds)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline nanoseconds
cpu_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (nanoseconds)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline double
seconds(nanoseconds time)
{
    return (double)time * 1e-9;
}

enum { PENDING, CANCELLED, COMPLETED, FAILED };

/* exceptions.c */
PyObject *take_exception(void);
void give_exception(PyObject *exception); /* steals it; NULL: none */
void note_failure(void); /* one of the hooks raised: tell the Python side, and keep what was meant for the user */
PyObject *with_interruption(PyObject *result); /* steals it */

/* threads.c */
extern uint64_t installation; /* which one this is, from 1 */
Clock *clock_of_thread(void); /* borrowed; NULL: this thread's steps are not measured */
void attach_clock(Clock *clock);
void detach_clock(void);
void resume_after_fork(void);

/* A clock may outlive the installation in which it was attached, and a thread that was another interpreter's for a while. */
static inline bool
is_valid(Clock *clock)
{
    return measuring && clock->installation == installation && clock->thread == PyThreadState_Get();
}

/* steps.c */
void begin_step(Entry *entry, Clock *clock, Figures *figures, PyObject *coroutine, PyObject *running,
                PyObject *woken_by);
void end_step(Entry *entry, PyObject *context);
void abandon_step(Entry *entry);
void drop_steps(Clock *clock, int depth); /* all that lie deeper end uncounted */
void pause_steps(Clock *clock);
void resume_steps(Clock *clock);
nanoseconds settle_step(Clock *clock); /* now */
void count_begin(Entry *entry);

/* accounts.c */
bool bill_account(Account *account, double seconds);
PyObject *account_here(void); /* what is in the variable; new reference or NULL, without an exception */
Account *begin_account(PyTypeObject *type, PyObject *name);
bool rename_account(Account *account, PyObject *name);
int add_accounts(PyObject *module);

/* requests.c, exchanges.c, routes.c */
int add_requests(PyObject *module); /* first */
int add_exchanges(PyObject *module);
int add_routes(PyObject *module);

/* files.c, dozing.c */
int add_files(PyObject *module);
int add_dozing(PyObject *module);

/* figures.c */
Figures *figures_of_callback(PyObject *callback, PyObject *handle);
Figures *figures_of_coroutine(PyObject *coroutine);
bool contains(PyObject *codes, PyObject *code);
bool is_first_step(PyObject *coroutine);
PyObject *coroutine_of(PyObject *task);
int outcome_of(PyObject *task, bool pure); /* how it ended; it may not have */
bool add_to_owner(Figures *figures);
bool add_count(PyObject *owner, const char *name, uint64_t count); /* to an attribute */
bool add_time(PyObject *owner, const char *name, nanoseconds time);
void forget_types(void);

/* names.c */
PyObject *get_attribute(PyObject *object, const char *text);
bool set_attribute(PyObject *object, const char *text, PyObject *value);
PyObject *call_method(PyObject *object, const char *text);
PyObject *get_item(PyObject *dict, const char *text);

/* layout.c */
PyObject *probe(PyObject *module, PyObject *arguments);

/* tasks.c */
extern ternaryfunc original_step;
extern PyCFunction original_wakeup;
void begin_task_step(Entry *entry, PyObject *task, bool wrapped, PyObject *running, PyObject *woken_by);
bool begin_pure_step(Entry *entry, PyObject *method, PyObject *handle, PyObject *arguments);
void hook_tasks(void);
void unhook_tasks(void);
int hooked_tasks(void); /* how many of the three entries are ours */

/* handles.c */
PyObject *method_of_handles(PyTypeObject *type, PyObject *original, PyObject *failed, int last_instruction,
                            int line_number);

#pragma GCC visibility pop

#endif
