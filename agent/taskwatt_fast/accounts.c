/* Accounts: who pays for the CPU that is being used now. What each function does is said in taskwatt/accounts.py; with
 * account_type.c and rows.c this is the twin of taskwatt/pure_accounts.py, for processes that open thousands of
 * accounts a second.
 *
 * Everything here runs under the GIL, and no Python code runs between two lines that belong together: so there is no
 * lock. Opening and closing have the running step settled without a call. */
#include "accounts.h"

Outcomes outcomes;
static PyObject *variable; /* the ContextVar */
static PyObject *settlers;
static Account *newest; /* the open rows, which this list owns */
static bool in_use;

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

Account *
make_account(PyTypeObject *type, PyObject *name)
{
    PyObject *around = current_account();
    PyObject *kept = around == NULL ? NULL : capped_name(name);
    Account *account = kept == NULL ? NULL : (Account *)type->tp_alloc(type, 0);
    if (account == NULL) {
        Py_XDECREF(kept);
        Py_XDECREF(around);
        return NULL;
    }
    account->name = kept;
    account->outcome = Py_NewRef(outcomes.pending);
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

bool
open_account(Account *account)
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

bool
close_account(Account *account, PyObject *outcome)
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

Account *
begin_account(PyTypeObject *type, PyObject *name)
{
    Account *account = make_account(type, name);
    if (account != NULL && !open_account(account)) {
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
    PyObject *kept = capped_name(name);
    if (kept == NULL) {
        return false;
    }
    Py_SETREF(account->name, kept);
    return true;
}

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

/* [(name, outcome, number, CPU seconds, wall seconds)]; one line for each open row. A collection that building the list
 * sets off may close accounts: so what is open is copied first, and each is told as it is then. */
static PyObject *
account_rows(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    PyObject *list = PyList_New(0), *open = PyList_New(0), *kept = kept_rows();
    bool done = list != NULL && open != NULL && kept != NULL;
    for (Account *one = newest; done && one != NULL; one = one->older) {
        done = PyList_Append(open, (PyObject *)one) == 0;
    }
    for (Py_ssize_t index = 0; done && index < PyList_GET_SIZE(open); index++) {
        Account *one = (Account *)PyList_GET_ITEM(open, index);
        done = one->closed || tell_total(list, one->name, outcomes.pending, 1, one->own, 0.0);
    }
    done = done && tell_closed(list, kept);
    Py_XDECREF(kept);
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
    forget_rows();
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
        && ((settlers = PyList_New(0)) == NULL
            || (outcomes.failed = PyUnicode_InternFromString("failed")) == NULL
            || (outcomes.useful = PyUnicode_InternFromString("useful")) == NULL
            || (outcomes.pending = PyUnicode_InternFromString("pending")) == NULL
            || (variable = PyContextVar_New("taskwatt_account", Py_None)) == NULL)) {
        return -1;
    }
    if (set_up_rows() < 0 || PyType_Ready(&AccountType) < 0 || PyModule_AddFunctions(module, functions) < 0
        || PyModule_AddIntConstant(module, "MAX_NAMES", MAX_NAMES) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "account", variable) < 0
               || PyModule_AddObjectRef(module, "Account", (PyObject *)&AccountType) < 0
        ? -1
        : 0;
}
