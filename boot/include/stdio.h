/* RPython's headers name FILE; nothing here prints. */
#ifndef STDIO_H
#define STDIO_H
typedef struct bulkhead_no_file FILE;
#endif
