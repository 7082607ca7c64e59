/* One account as Python sees it. It is nothing for the garbage collector, which would otherwise come by more often and
 * meet all that wait in contexts: it holds what cannot hold it, the ones around it and a few plain objects of an
 * integration's. */
#include "accounts.h"

#include <structmember.h>

static PyObject *
account_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *keywords[] = {"name", NULL};
    PyObject *name = NULL;
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "|U:Account", keywords, &name)) {
        return NULL;
    }
    if (name != NULL) {
        return (PyObject *)make_account(type, name);
    }
    PyObject *none = PyUnicode_New(0, 0);
    PyObject *account = none == NULL ? NULL : (PyObject *)make_account(type, none);
    Py_XDECREF(none);
    return account;
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
    return open_account(account) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
account_close(Account *account, PyObject *const *arguments, Py_ssize_t number)
{
    if (number > 1 || (number == 1 && !PyUnicode_Check(arguments[0]))) {
        PyErr_SetString(PyExc_TypeError, "close([outcome])");
        return NULL;
    }
    return close_account(account, number == 1 ? arguments[0] : outcomes.useful) ? Py_NewRef(Py_None) : NULL;
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
    bool at_fault = account->status >= 500 && PyUnicode_Compare(outcome, outcomes.useful) == 0;
    return close_account(account, at_fault ? outcomes.failed : outcome) ? Py_NewRef(Py_None) : NULL;
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
