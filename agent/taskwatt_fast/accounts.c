/* Accounts: who pays for the CPU that is being used now. What each function does is said in taskwatt/accounts.py; this
 * is the twin of taskwatt/pure_accounts.py, for processes that open thousands of accounts a second.
 *
 * Everything here runs under the GIL, and no Python code runs between two lines that belong together: so there is no
 * lock. Opening and closing have the running step settled without a call. An account is nothing for the garbage
 * collector, which would otherwise come by more often and meet all that wait in contexts: it holds what cannot hold it,
 * the ones around it and a few plain objects of an integration's. */
#include "carrier.h"

#include <structmember.h>

enum { MAX_NAMES = 500 };

typedef struct {
    PyObject *outcome;
    uint64_t number;
    double cpu, wall;
} Total;

/* One name's totals of what is closed, by outcome. */
typedef struct {
    PyObject_HEAD
    Total *total;
    Py_ssize_t totals;
} Row;

static PyObject *variable; /* the ContextVar */
static PyObject *rows; /* by name: those that a row ever had; bounded */
static PyObject *other, *useful, *pending, *failed;
static PyObject *settlers;
static Account *newest; /* the open rows, which this list owns */
static bool in_use;

/* --- the table ----------------------------------------------------------------------------------------------------- */

static void
row_dealloc(Row *row)
{
    for (Py_ssize_t index = 0; index < row->totals; index++) {
        Py_DECREF(row->total[index].outcome);
    }
    PyMem_Free(row->total);
    PyObject_Free(row);
}

static PyTypeObject RowType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast.Row",
    .tp_basicsize = sizeof(Row),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)row_dealloc,
};

/* Borrowed; NULL with an exception. */
static Row *
row_of(PyObject *name)
{
    PyObject *row = PyDict_GetItemWithError(rows, name);
    if (row != NULL || PyErr_Occurred()) {
        return (Row *)row;
    }
    Row *made = PyObject_New(Row, &RowType);
    if (made == NULL) {
        return NULL;
    }
    made->total = NULL;
    made->totals = 0;
    int failed = PyDict_SetItem(rows, name, (PyObject *)made);
    Py_DECREF((PyObject *)made);
    return failed ? NULL : made;
}

static Total *
total_of(PyObject *name, PyObject *outcome)
{
    Row *row = row_of(name);
    if (row == NULL) {
        return NULL;
    }
    for (Py_ssize_t index = 0; index < row->totals; index++) {
        PyObject *one = row->total[index].outcome;
        if (one == outcome || PyUnicode_Compare(one, outcome) == 0) {
            return &row->total[index];
        }
    }
    Total *larger = PyMem_Realloc(row->total, (size_t)(row->totals + 1) * sizeof(Total));
    if (larger == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    row->total = larger;
    larger[row->totals] = (Total){.outcome = Py_NewRef(outcome)};
    return &larger[row->totals++];
}

/* A new name where there is room for one, else `other`. New reference; NULL with an exception. */
static PyObject *
capped(PyObject *name)
{
    if (PyUnicode_GET_LENGTH(name) == 0) {
        return Py_NewRef(name);
    }
    int known = PyDict_Contains(rows, name);
    if (known < 0) {
        return NULL;
    }
    if (!known) {
        int shared = PyDict_Contains(rows, other);
        if (shared < 0) {
            return NULL;
        }
        if (PyDict_GET_SIZE(rows) - shared >= MAX_NAMES) {
            return Py_NewRef(other);
        }
        if (row_of(name) == NULL) {
            return NULL;
        }
    }
    return Py_NewRef(name);
}

/* --- the account --------------------------------------------------------------------------------------------------- */

/* Move what a closed row has paid to the table. Without memory it stays where it is, for the next time. */
static bool
book(Account *row, Total *total)
{
    if (total == NULL) {
        return false;
    }
    total->cpu += row->own - row->booked;
    row->booked = row->own;
    return true;
}

/* Does a row pay? No exception may be pending. */
bool
bill_account(Account *account, double seconds)
{
    for (Account *one = account; one != NULL; one = one->around) {
        one->cpu += seconds;
    }
    Account *row = account->row;
    if (row == NULL) {
        return false;
    }
    row->own += seconds;
    if (UNLIKELY(row->closed) && !book(row, total_of(row->name, row->outcome))) {
        PyErr_Clear();
    }
    return true;
}

PyObject *
account_here(void)
{
    PyObject *one = NULL;
    if (PyContextVar_Get(variable, NULL, &one) < 0) {
        PyErr_Clear();
    }
    return one;
}

/* The innermost open one of this context. New reference; None; NULL with an exception. */
static PyObject *
current_account(void)
{
    PyObject *one;
    if (PyContextVar_Get(variable, NULL, &one) < 0) {
        return NULL;
    }
    while (one != Py_None && PyObject_TypeCheck(one, &AccountType) && ((Account *)one)->closed) {
        Account *around = ((Account *)one)->around;
        Py_SETREF(one, Py_NewRef(around == NULL ? Py_None : (PyObject *)around));
    }
    return one;
}

static bool
set_current(PyObject *account)
{
    PyObject *token = PyContextVar_Set(variable, account);
    Py_XDECREF(token);
    return token != NULL;
}

/* Where nothing was current before, nothing of ours stays in the context: it may live long (a timer's), and each one
 * that differs from an empty one is two objects more for the garbage collector. */
static bool
set_back(Account *account)
{
    PyObject *token = account->token;
    account->token = NULL;
    if (token != NULL) {
        int failed = PyContextVar_Reset(variable, token);
        Py_DECREF(token);
        if (!failed) {
            return true;
        }
        PyErr_Clear(); /* it is closed in a copy of the context */
    }
    return set_current(account->around == NULL ? Py_None : (PyObject *)account->around);
}

/* What time it is now, by the wall; below 0 with an exception, which is a settler's or the user's (a signal). */
static nanoseconds
settled(void)
{
    nanoseconds now = settle_step(current_clock);
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(settlers); index++) {
        PyObject *settler = Py_NewRef(PyList_GET_ITEM(settlers, index));
        PyObject *answer = PyObject_CallNoArgs(settler);
        Py_DECREF(settler);
        if (answer == NULL) {
            return -1;
        }
        Py_DECREF(answer);
    }
    return now;
}

static Account *
made(PyTypeObject *type, PyObject *name)
{
    PyObject *around = current_account();
    PyObject *kept = around == NULL ? NULL : capped(name);
    Account *account = kept == NULL ? NULL : (Account *)type->tp_alloc(type, 0);
    if (account == NULL) {
        Py_XDECREF(kept);
        Py_XDECREF(around);
        return NULL;
    }
    account->name = kept;
    account->outcome = Py_NewRef(pending);
    if (around != Py_None && PyObject_TypeCheck(around, &AccountType)) {
        account->around = (Account *)around;
    }
    else {
        Py_DECREF(around);
    }
    if (PyUnicode_GET_LENGTH(kept) > 0) {
        account->row = account; /* not owned */
    }
    else if (account->around != NULL) {
        account->row = (Account *)Py_XNewRef((PyObject *)account->around->row);
    }
    return account;
}

static bool
opened(Account *account)
{
    in_use = true;
    if (UNLIKELY(hooks.account == NULL && measuring)) {
        hooks.account = Py_NewRef(variable);
    }
    nanoseconds now = settled();
    if (now < 0) {
        return false;
    }
    if (account->row == account && !account->listed && !account->closed) {
        account->listed = true;
        account->newer = NULL;
        account->older = newest;
        if (newest != NULL) {
            newest->newer = account;
        }
        newest = (Account *)Py_NewRef((PyObject *)account);
    }
    account->opened = now;
    PyObject *before, *token;
    if (PyContextVar_Get(variable, NULL, &before) < 0) {
        return false;
    }
    bool kept = account->listed && before == Py_None;
    Py_DECREF(before);
    if ((token = PyContextVar_Set(variable, (PyObject *)account)) == NULL) {
        return false;
    }
    if (kept) {
        Py_XSETREF(account->token, token);
    }
    else {
        Py_DECREF(token);
    }
    return true;
}

static void
unlist(Account *account)
{
    if (!account->listed) {
        return;
    }
    account->listed = false;
    Py_CLEAR(account->token);
    *(account->newer == NULL ? &newest : &account->newer->older) = account->older;
    if (account->older != NULL) {
        account->older->newer = account->newer;
    }
    account->newer = account->older = NULL;
    Py_DECREF((PyObject *)account);
}

static bool
closed(Account *account, PyObject *outcome)
{
    if (account->closed) {
        return true;
    }
    nanoseconds now = settled();
    PyObject *here = NULL;
    if (now < 0 || PyContextVar_Get(variable, NULL, &here) < 0) {
        return false;
    }
    bool done = here != (PyObject *)account || set_back(account);
    Py_XDECREF(here);
    if (!done) {
        return false;
    }
    Py_CLEAR(account->token);
    account->closed = true;
    if (account->row != account) {
        return true;
    }
    Py_SETREF(account->outcome, Py_NewRef(outcome));
    Total *total = total_of(account->name, outcome);
    done = book(account, total);
    if (done) {
        total->number++;
        total->wall += seconds(now - account->opened);
    }
    unlist(account);
    return done;
}

static PyObject *
account_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *keywords[] = {"name", NULL};
    PyObject *name = NULL;
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "|U:Account", keywords, &name)) {
        return NULL;
    }
    if (name != NULL) {
        return (PyObject *)made(type, name);
    }
    PyObject *none = PyUnicode_New(0, 0);
    PyObject *account = none == NULL ? NULL : (PyObject *)made(type, none);
    Py_XDECREF(none);
    return account;
}

Account *
begin_account(PyTypeObject *type, PyObject *name)
{
    Account *account = made(type, name);
    if (account != NULL && !opened(account)) {
        Py_CLEAR(account);
    }
    return account;
}

bool
rename_account(Account *account, PyObject *name)
{
    if (!PyUnicode_Check(name)) {
        PyErr_SetString(PyExc_TypeError, "a name is a str");
        return false;
    }
    PyObject *kept = capped(name);
    if (kept == NULL) {
        return false;
    }
    Py_SETREF(account->name, kept);
    return true;
}

static PyObject *
account_begin(PyTypeObject *type, PyObject *name)
{
    if (!PyUnicode_Check(name)) {
        PyErr_SetString(PyExc_TypeError, "a name is a str");
        return NULL;
    }
    return (PyObject *)begin_account(type, name);
}

static PyObject *
account_open(Account *account, PyObject *Py_UNUSED(none))
{
    return opened(account) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
account_close(Account *account, PyObject *const *arguments, Py_ssize_t number)
{
    if (number > 1 || (number == 1 && !PyUnicode_Check(arguments[0]))) {
        PyErr_SetString(PyExc_TypeError, "close([outcome])");
        return NULL;
    }
    return closed(account, number == 1 ? arguments[0] : useful) ? Py_NewRef(Py_None) : NULL;
}

/* A request's: `useful` becomes `failed` when the server was at fault (5xx). */
static PyObject *
account_end(Account *account, PyObject *outcome)
{
    if (!PyUnicode_Check(outcome)) {
        PyErr_SetString(PyExc_TypeError, "an outcome is a str");
        return NULL;
    }
    Py_CLEAR(account->source);
    bool at_fault = account->status >= 500 && PyUnicode_Compare(outcome, useful) == 0;
    return closed(account, at_fault ? failed : outcome) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
account_bill(Account *account, PyObject *amount)
{
    double seconds = PyFloat_AsDouble(amount);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    return PyBool_FromLong(bill_account(account, seconds));
}

static PyObject *
account_rename(Account *account, PyObject *name)
{
    return rename_account(account, name) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
account_has_row(Account *account, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(account->row != NULL);
}

static void
account_dealloc(Account *account)
{
    Account *around = account->around;
    if (account->row != account) {
        Py_XDECREF((PyObject *)account->row);
    }
    Py_DECREF(account->name);
    Py_DECREF(account->outcome);
    Py_XDECREF(account->token);
    Py_XDECREF(account->names);
    Py_XDECREF(account->prefix);
    Py_XDECREF(account->source);
    Py_TYPE(account)->tp_free((PyObject *)account);
    /* Spans may lie in each other, thousands deep: the one around is not freed from in here if nobody else holds it. */
    static Account *waiting;
    static bool freeing;
    if (around == NULL || Py_REFCNT(around) > 1) {
        Py_XDECREF((PyObject *)around);
        return;
    }
    around->older = waiting;
    waiting = around;
    if (freeing) {
        return;
    }
    freeing = true;
    while (waiting != NULL) {
        Account *next = waiting;
        waiting = next->older;
        Py_DECREF((PyObject *)next);
    }
    freeing = false;
}

static PyObject *
account_row_name(Account *account, void *Py_UNUSED(closure))
{
    return account->row == NULL ? PyUnicode_New(0, 0) : Py_NewRef(account->row->name);
}

static PyMethodDef account_methods[] = {
    {"begin", (PyCFunction)account_begin, METH_O | METH_CLASS, "One of this name, made and opened."},
    {"open", (PyCFunction)account_open, METH_NOARGS, "Current in this context from here on, and in those copied from it."},
    {"close", (PyCFunction)(void (*)(void))account_close, METH_FASTCALL, "No longer current here. Idempotent."},
    {"end", (PyCFunction)account_end, METH_O, "Close a request."},
    {"bill", (PyCFunction)account_bill, METH_O, "Pay for so many seconds of CPU. False when no row does. Any thread."},
    {"rename", (PyCFunction)account_rename, METH_O, "A row learns its name late."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef account_members[] = {
    {"around", T_OBJECT, offsetof(Account, around), READONLY, "The one that was current when it was made, or None."},
    {"name", T_OBJECT, offsetof(Account, name), READONLY, "Its row in the ledger; empty: it only adds up."},
    {"outcome", T_OBJECT, offsetof(Account, outcome), READONLY, "What a row came to; pending while it is open."},
    {"closed", T_BOOL, offsetof(Account, closed), READONLY, "Has it been closed?"},
    {"cpu_s", T_DOUBLE, offsetof(Account, cpu), READONLY, "What it and the accounts within it have paid until now."},
    {"own_s", T_DOUBLE, offsetof(Account, own), READONLY, "What it has paid as a row."},
    {"names", T_OBJECT, offsetof(Account, names), 0, NULL},
    {"prefix", T_OBJECT, offsetof(Account, prefix), 0, NULL},
    {"route", T_ULONGLONG, offsetof(Account, route), 0, NULL},
    {"source", T_OBJECT, offsetof(Account, source), 0, NULL},
    {"status", T_LONG, offsetof(Account, status), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef account_properties[] = {
    {"row_name", (getter)account_row_name, NULL, "Of the row that pays for it; empty where none does.", NULL},
    {"has_row", (getter)account_has_row, NULL, "Is there a row that pays for it?", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject AccountType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "taskwatt_fast.Account",
    .tp_doc = "Account(name=''): made, opened and closed once, in one context.",
    .tp_basicsize = sizeof(Account),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = account_new,
    .tp_dealloc = (destructor)account_dealloc,
    .tp_methods = account_methods,
    .tp_members = account_members,
    .tp_getset = account_properties,
};

/* --- of all of them ------------------------------------------------------------------------------------------------ */

static PyObject *
account_in_use(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(in_use);
}

static PyObject *
current(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return current_account();
}

static PyObject *
settle(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return with_interruption(settled() < 0 ? NULL : Py_NewRef(Py_None));
}

static PyObject *
add_settler(PyObject *Py_UNUSED(module), PyObject *settler)
{
    return PyList_Append(settlers, settler) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
remove_settler(PyObject *Py_UNUSED(module), PyObject *settler)
{
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(settlers); index++) {
        int same = PyObject_RichCompareBool(PyList_GET_ITEM(settlers, index), settler, Py_EQ);
        if (same < 0 || (same > 0 && PyList_SetSlice(settlers, index, index + 1, NULL) < 0)) {
            return NULL;
        }
        if (same > 0) {
            break;
        }
    }
    Py_RETURN_NONE;
}

static bool
told(PyObject *list, PyObject *name, PyObject *outcome, uint64_t number, double cpu, double wall)
{
    PyObject *line = Py_BuildValue("OOKdd", name, outcome, (unsigned long long)number, cpu, wall);
    bool done = line != NULL && PyList_Append(list, line) == 0;
    Py_XDECREF(line);
    return done;
}

/* [(name, outcome, number, CPU seconds, wall seconds)]; one line for each open row. A collection that building the list
 * sets off may close accounts: so what is open is copied first, and each is told as it is then. */
static PyObject *
account_rows(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    PyObject *list = PyList_New(0), *open = PyList_New(0), *closed_rows = PyDict_Items(rows);
    bool done = list != NULL && open != NULL && closed_rows != NULL;
    for (Account *one = newest; done && one != NULL; one = one->older) {
        done = PyList_Append(open, (PyObject *)one) == 0;
    }
    for (Py_ssize_t index = 0; done && index < PyList_GET_SIZE(open); index++) {
        Account *one = (Account *)PyList_GET_ITEM(open, index);
        done = one->closed || told(list, one->name, pending, 1, one->own, 0.0);
    }
    for (Py_ssize_t index = 0; done && index < PyList_GET_SIZE(closed_rows); index++) {
        PyObject *item = PyList_GET_ITEM(closed_rows, index);
        Row *row = (Row *)PyTuple_GET_ITEM(item, 1);
        for (Py_ssize_t which = 0; done && which < row->totals; which++) {
            Total total = row->total[which];
            done = told(list, PyTuple_GET_ITEM(item, 0), total.outcome, total.number, total.cpu, total.wall);
        }
    }
    Py_XDECREF(closed_rows);
    Py_XDECREF(open);
    if (!done) {
        Py_CLEAR(list);
    }
    return list;
}

static PyObject *
forget_accounts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    while (newest != NULL) {
        unlist(newest);
    }
    PyDict_Clear(rows);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"in_use", account_in_use, METH_NOARGS, "Has this process ever opened an account?"},
    {"current_account", current, METH_NOARGS, "The innermost account that is open here, or None."},
    {"settle_all", settle, METH_NOARGS, "Bill what is being measured on this thread to the account that is current."},
    {"add_settler", add_settler, METH_O, "Called before the current account changes."},
    {"remove_settler", remove_settler, METH_O, "No more. Idempotent."},
    {"account_rows", account_rows, METH_NOARGS, "[(name, outcome, number, CPU seconds, wall seconds)]"},
    {"forget_accounts", forget_accounts, METH_NOARGS, "Nothing was ever paid."},
    {NULL, NULL, 0, NULL},
};

int
add_accounts(PyObject *module)
{
    if (variable == NULL
        && ((rows = PyDict_New()) == NULL || (settlers = PyList_New(0)) == NULL
            || (other = PyUnicode_InternFromString("other")) == NULL
            || (failed = PyUnicode_InternFromString("failed")) == NULL
            || (useful = PyUnicode_InternFromString("useful")) == NULL
            || (pending = PyUnicode_InternFromString("pending")) == NULL
            || (variable = PyContextVar_New("taskwatt_account", Py_None)) == NULL)) {
        return -1;
    }
    if (PyType_Ready(&RowType) < 0 || PyType_Ready(&AccountType) < 0 || PyModule_AddFunctions(module, functions) < 0
        || PyModule_AddIntConstant(module, "MAX_NAMES", MAX_NAMES) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "account", variable) < 0
               || PyModule_AddObjectRef(module, "Account", (PyObject *)&AccountType) < 0
        ? -1
        : 0;
}
