/* Accounts: what the parts that keep them share. What the others call is in carrier.h. */
#ifndef TASKWATT_ACCOUNTS_H
#define TASKWATT_ACCOUNTS_H

#include "carrier.h"

#pragma GCC visibility push(hidden) /* see carrier.h */

enum { MAX_NAMES = 500 };

/* Of the accounts of one name that ended with one outcome. */
typedef struct {
    PyObject *outcome;
    uint64_t number;
    double cpu, wall;
} Total;

typedef struct {
    PyObject *useful, *pending, *failed;
} Outcomes;

/* accounts.c */
extern Outcomes outcomes;
Account *make_account(PyTypeObject *type, PyObject *name);
bool open_account(Account *account); /* this and the next: false with an exception */
bool close_account(Account *account, PyObject *outcome);

/* rows.c */
PyObject *capped_name(PyObject *name);
Total *total_of(PyObject *name, PyObject *outcome); /* a new one where there is none; NULL with an exception */
bool tell_total(PyObject *list, PyObject *name, PyObject *outcome, uint64_t number, double cpu, double wall);
PyObject *kept_rows(void); /* as they are named now, for `tell_closed`: a new list, or NULL */
bool tell_closed(PyObject *list, PyObject *kept);
void forget_rows(void);
int set_up_rows(void);

#pragma GCC visibility pop

#endif
