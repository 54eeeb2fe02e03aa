/* SPDX-License-Identifier: BSD-2-Clause */
#include "config.h"

#include "files/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/files.h"
#include "files/json.h"
#include "files/st_header.h"

/* A set of one or more safetensors files under one list of tensors sorted by name. The header of
 * each is copied out of the file and checked before anything is mapped, so what npt_st_at() says
 * stays true even when the file changes; only the data is read through the mapping. */

typedef struct shard {
    char *path;
    int fd;         /* kept while mapped, to see the file shrink; else -1 */
    uint64_t bytes; /* of the file, when it was opened */
    void *map;      /* the whole file; NULL for headers_only */
    npt_st_header header;
} shard;

struct npt_st {
    shard *shards;
    size_t shard_count;
    npt_st_tensor *tensors; /* of all shards, sorted by name */
    size_t count;
};

static const char *const PICKLES[] = {".bin", ".pt", ".pth", ".ckpt"};

/* ---- One file ---- */

static npt_status read_exactly(int fd, void *dst, size_t bytes, off_t offset)
{
    char *to = dst;
    while (bytes > 0) {
        ssize_t got = pread(fd, to, bytes, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return npt_fail(NPT_E_IO, "cannot read: %s", strerror(errno));
        if (got == 0) return npt_fail(NPT_E_IO, "the file became shorter while it was read");
        to += got;
        offset += got;
        bytes -= (size_t)got;
    }
    return NPT_OK;
}

static npt_status read_header(shard *file)
{
    uint8_t prefix[NPT_ST_PREFIX];
    size_t length = 0;
    if (file->bytes < NPT_ST_PREFIX)
        return npt_fail(NPT_E_FORMAT,
                        "not a safetensors file: %llu bytes are fewer than the 8 it starts with",
                        (unsigned long long)file->bytes);
    NPT_TRY(read_exactly(file->fd, prefix, sizeof prefix, 0));
    NPT_TRY(npt_st_header_length(prefix, file->bytes, &length));
    char *text = npt_alloc(length + 1, 1);
    if (text == NULL) return NPT_E_NOMEM;
    npt_status status = read_exactly(file->fd, text, length, NPT_ST_PREFIX);
    if (status == NPT_OK) status = npt_st_header_parse(text, length, file->bytes, &file->header);
    npt_free(text);
    return status;
}

static npt_status open_file(shard *file)
{
    struct stat info;
    /* O_NONBLOCK: opening a pipe that has no writer must not hang. It means nothing for a file. */
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0 || fstat(file->fd, &info) != 0)
        return npt_fail(NPT_E_IO, "cannot open: %s", strerror(errno));
    if (!S_ISREG(info.st_mode)) return npt_fail(NPT_E_IO, "cannot open: not a regular file");
    file->bytes = (uint64_t)info.st_size;
    return NPT_OK;
}

static npt_status map_file(shard *file)
{
    if (file->bytes > SIZE_MAX)
        return npt_fail(NPT_E_NOMEM, "too large for the addresses of this machine");
    void *map = mmap(NULL, (size_t)file->bytes, PROT_READ, MAP_SHARED, file->fd, 0);
    if (map == MAP_FAILED) return npt_fail(NPT_E_IO, "cannot map: %s", strerror(errno));
    file->map = map;
    for (size_t i = 0; i < file->header.count; i++)
        file->header.tensors[i].data = (const char *)map + file->header.tensors[i].begin;
    return NPT_OK;
}

static npt_status open_shard(shard *file, const char *path, bool headers_only)
{
    file->path = npt_strdup(path);
    if (file->path == NULL) return NPT_E_NOMEM;
    npt_status status = open_file(file);
    if (status == NPT_OK) status = read_header(file);
    if (status == NPT_OK && !headers_only) status = map_file(file);
    if (headers_only && file->fd >= 0) {
        close(file->fd);
        file->fd = -1;
    }
    if (status != NPT_OK) return npt_fail_in(status, "%s", path);
    for (size_t i = 0; i < file->header.count; i++) file->header.tensors[i].file = file->path;
    return NPT_OK;
}

static void close_shard(shard *file)
{
    if (file->map != NULL) munmap(file->map, (size_t)file->bytes);
    if (file->fd >= 0) close(file->fd);
    npt_st_header_fini(&file->header);
    npt_free(file->path);
}

/* ---- The set ---- */

static npt_st *create(size_t shards)
{
    npt_st *st = npt_alloc(1, sizeof *st);
    if (st == NULL) return NULL;
    st->shards = npt_alloc(shards, sizeof *st->shards);
    if (st->shards == NULL) {
        npt_free(st);
        return NULL;
    }
    st->shard_count = shards;
    for (size_t i = 0; i < shards; i++) st->shards[i].fd = -1;
    return st;
}

static int by_name(const void *a, const void *b)
{
    const npt_st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static npt_status merge(npt_st *st)
{
    if (st->shard_count == 1) {
        st->tensors = st->shards[0].header.tensors;
        st->count = st->shards[0].header.count;
        return NPT_OK;
    }
    size_t total = 0;
    for (size_t i = 0; i < st->shard_count; i++) total += st->shards[i].header.count;
    st->tensors = npt_alloc(total + 1, sizeof *st->tensors);
    if (st->tensors == NULL) return NPT_E_NOMEM;
    for (size_t i = 0; i < st->shard_count; i++) {
        const npt_st_header *header = &st->shards[i].header;
        memcpy(st->tensors + st->count, header->tensors, header->count * sizeof *st->tensors);
        st->count += header->count;
    }
    qsort(st->tensors, st->count, sizeof *st->tensors, by_name);
    for (size_t i = 1; i < st->count; i++) {
        const npt_st_tensor *a = &st->tensors[i - 1], *b = &st->tensors[i];
        char shown[NPT_SHOW_BYTES];
        if (strcmp(a->name, b->name) == 0)
            return npt_fail(NPT_E_FORMAT, "tensor '%s' is in '%s' and again in '%s'",
                            npt_show(a->name, shown), a->file, b->file);
    }
    return NPT_OK;
}

static npt_status open_single(npt_st **st, const char *path, bool headers_only)
{
    npt_st *set = create(1);
    if (set == NULL) return NPT_E_NOMEM;
    npt_status status = open_shard(&set->shards[0], path, headers_only);
    if (status == NPT_OK) status = merge(set);
    if (status == NPT_OK)
        *st = set;
    else
        npt_st_close(set);
    return status;
}

/* ---- Shards ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* An index is a stranger's: it may name files beside itself and no others. */
static npt_status check_file_name(const char *tensor, const json_t *value)
{
    const char *name = json_string_value(value);
    if (name != NULL && strchr(name, '/') == NULL && name[0] != '.' &&
        ends_with(name, ".safetensors"))
        return NPT_OK;
    char shown[NPT_SHOW_BYTES], shown_file[NPT_SHOW_BYTES];
    return npt_fail(NPT_E_FORMAT,
                    "tensor '%s' is said to be in '%s', which is not the name of a "
                    ".safetensors file in the same directory",
                    npt_show(tensor, shown), npt_show(name == NULL ? "" : name, shown_file));
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The different file names of a weight_map, sorted; the strings are the map's. */
static npt_status shard_names(json_t *weight_map, const char ***names, size_t *count)
{
    size_t used = 0, unique = 0;
    const char *key;
    json_t *value;
    json_object_foreach(weight_map, key, value) NPT_TRY(check_file_name(key, value));
    if (json_object_size(weight_map) == 0) return npt_fail(NPT_E_FORMAT, "weight_map is empty");
    const char **list = npt_alloc(json_object_size(weight_map), sizeof *list);
    if (list == NULL) return NPT_E_NOMEM;
    json_object_foreach(weight_map, key, value) list[used++] = json_string_value(value);
    qsort(list, used, sizeof *list, by_string);
    for (size_t i = 0; i < used; i++)
        if (i == 0 || strcmp(list[i], list[i - 1]) != 0) list[unique++] = list[i];
    *names = list;
    *count = unique;
    return NPT_OK;
}

static npt_status open_named(npt_st *set, const char *directory, const char *const *names,
                             bool headers_only)
{
    for (size_t i = 0; i < set->shard_count; i++) {
        char *path = npt_path_join(directory, names[i]);
        if (path == NULL) return NPT_E_NOMEM;
        npt_status status = open_shard(&set->shards[i], path, headers_only);
        npt_free(path);
        if (status != NPT_OK) return status;
    }
    return merge(set);
}

/* Each tensor of the map is in the shard that the map names. */
static npt_status check_listed(const npt_st *set, json_t *weight_map)
{
    const char *key;
    json_t *value;
    json_object_foreach(weight_map, key, value)
    {
        const npt_st_tensor *found = npt_st_find(set, key);
        const char *file = found == NULL ? "" : strrchr(found->file, '/') + 1;
        if (found != NULL && strcmp(file, json_string_value(value)) == 0) continue;
        char shown[NPT_SHOW_BYTES], shown_file[NPT_SHOW_BYTES];
        return npt_fail(NPT_E_FORMAT, "tensor '%s' is not in '%s', where the index says it is",
                        npt_show(key, shown), npt_show(json_string_value(value), shown_file));
    }
    return NPT_OK;
}

static npt_status open_listed(npt_st **st, const char *directory, json_t *index, bool headers_only)
{
    const char **names = NULL;
    size_t count = 0;
    npt_st *set = NULL;
    json_t *weight_map = json_object_get(index, "weight_map");
    if (!json_is_object(weight_map)) return npt_fail(NPT_E_FORMAT, "no weight_map");
    NPT_TRY(shard_names(weight_map, &names, &count));
    npt_status status = NPT_E_NOMEM;
    set = create(count);
    if (set != NULL) status = open_named(set, directory, names, headers_only);
    if (status == NPT_OK) status = check_listed(set, weight_map);
    npt_free(names);
    if (status == NPT_OK)
        *st = set;
    else
        npt_st_close(set);
    return status;
}

static npt_status open_index(npt_st **st, const char *directory, const char *path,
                             bool headers_only)
{
    json_t *index = NULL;
    NPT_TRY(npt_json_load(path, JSON_REJECT_DUPLICATES, &index));
    npt_status status = open_listed(st, directory, index, headers_only);
    json_decref(index);
    return status == NPT_OK ? NPT_OK : npt_fail_in(status, "%s", path);
}

/* ---- Directories and pickles ---- */

static bool is_pickle(const char *name)
{
    for (size_t i = 0; i < sizeof PICKLES / sizeof PICKLES[0]; i++)
        if (ends_with(name, PICKLES[i])) return true;
    return false;
}

static npt_status refuse_pickle(const char *path)
{
    const char *name = strrchr(path, '/');
    return npt_fail(NPT_E_UNSUPPORTED,
                    "%s is a pickle, which can run code when it is loaded; npt reads safetensors. "
                    "To convert it, run in its directory: python3 -c \"import torch; from "
                    "safetensors.torch import save_file; save_file({k: v.clone().contiguous() for "
                    "k, v in torch.load('%s', map_location='cpu', weights_only=True).items()}, "
                    "'model.safetensors', {'format': 'pt'})\"",
                    path, name == NULL ? path : name + 1);
}

static bool holds_pickles(DIR *directory)
{
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (is_pickle(entry->d_name)) return true;
    return false;
}

/* What to say about a directory without safetensors. Its pickles may be shards, which only
 * Transformers can put together. */
static npt_status refuse_directory(const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL) return npt_fail(NPT_E_IO, "cannot open '%s': %s", path, strerror(errno));
    bool pickles = holds_pickles(directory);
    closedir(directory);
    if (pickles)
        return npt_fail(NPT_E_UNSUPPORTED,
                        "%s has its weights as pickles, which can run code when they are loaded; "
                        "npt reads safetensors. To convert them: python3 -c \"from transformers "
                        "import AutoModelForCausalLM as M; M.from_pretrained('%s', "
                        "torch_dtype='auto').save_pretrained('%s')\"",
                        path, path, path);
    return npt_fail(NPT_E_IO,
                    "'%s' holds neither model.safetensors.index.json nor model.safetensors", path);
}

static npt_status open_directory(npt_st **st, const char *path, bool headers_only)
{
    npt_status status = NPT_E_NOMEM;
    char *index = npt_path_join(path, "model.safetensors.index.json");
    char *single = npt_path_join(path, "model.safetensors");
    if (index != NULL && single != NULL) {
        if (npt_path_exists(index))
            status = open_index(st, path, index, headers_only);
        else if (npt_path_exists(single))
            status = open_single(st, single, headers_only);
        else
            status = refuse_directory(path);
    }
    npt_free(index);
    npt_free(single);
    return status;
}

/* ---- Exported ---- */

npt_status npt_st_open(npt_st **st, const char *path, bool headers_only)
{
    if (npt_path_is_directory(path)) return open_directory(st, path, headers_only);
    if (is_pickle(path) && npt_path_exists(path)) return refuse_pickle(path);
    return open_single(st, path, headers_only);
}

const npt_st_tensor *npt_st_find(const npt_st *st, const char *name)
{
    const npt_st_tensor key = {.name = name};
    return bsearch(&key, st->tensors, st->count, sizeof key, by_name);
}

size_t npt_st_count(const npt_st *st)
{
    return st->count;
}

const npt_st_tensor *npt_st_at(const npt_st *st, size_t index)
{
    NPT_ASSERT(index < st->count);
    return &st->tensors[index];
}

const char *npt_st_metadata(const npt_st *st, const char *key)
{
    for (size_t i = 0; i < st->shard_count; i++) {
        const json_t *value = json_object_get(st->shards[i].header.metadata, key);
        if (value != NULL) return json_string_value(value);
    }
    return NULL;
}

npt_status npt_st_check_unchanged(const npt_st *st)
{
    for (size_t i = 0; i < st->shard_count; i++) {
        const shard *file = &st->shards[i];
        struct stat info;
        if (file->map == NULL) continue;
        if (fstat(file->fd, &info) != 0)
            return npt_fail(NPT_E_IO, "cannot look at '%s': %s", file->path, strerror(errno));
        if ((uint64_t)info.st_size < file->bytes)
            return npt_fail(NPT_E_IO,
                            "'%s' changed while it was in use: it had %llu bytes and has %llu; "
                            "restore it and start again",
                            file->path, (unsigned long long)file->bytes,
                            (unsigned long long)info.st_size);
    }
    return NPT_OK;
}

static const shard *shard_of(const npt_st *st, const npt_st_tensor *tensor)
{
    for (size_t i = 0; i < st->shard_count; i++)
        if (st->shards[i].path == tensor->file) return &st->shards[i];
    NPT_ASSERT(!"a tensor of another set");
    return NULL;
}

void npt_st_unmap(const npt_st *st, const npt_st_tensor *tensor)
{
    const shard *file = shard_of(st, tensor);
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE),
                   first = (tensor->begin + page - 1) / page * page,
                   end = (tensor->begin + tensor->bytes) / page * page;
    NPT_ASSERT(file->map != NULL && tensor->data == (char *)file->map + tensor->begin);
    /* pages shared with a neighbour stay */
    if (end > first) (void)madvise((char *)file->map + first, end - first, MADV_DONTNEED);
}

/* ---- Beside the mapping ---- */

void npt_st_place(npt_st *st, const npt_st_tensor *tensor, const void *data)
{
    npt_st_tensor *own = &st->tensors[tensor - st->tensors];
    const char *map = shard_of(st, tensor)->map;
    own->data = data != NULL || map == NULL ? data : map + own->begin;
}

npt_status npt_st_read(const npt_st *st, const npt_st_tensor *tensor, uint64_t offset, void *dst,
                       size_t bytes)
{
    const shard *file = shard_of(st, tensor);
    const off_t at = (off_t)(tensor->begin + offset);
    NPT_ASSERT(bytes <= tensor->bytes && offset <= tensor->bytes - bytes);
    (void)posix_fadvise(file->fd, at, (off_t)bytes, POSIX_FADV_RANDOM);
    npt_status status = read_exactly(file->fd, dst, bytes, at);
    return status == NPT_OK ? NPT_OK : npt_fail_in(status, "%s", tensor->file);
}

void npt_st_forget(const npt_st *st, const npt_st_tensor *tensor)
{
    (void)posix_fadvise(shard_of(st, tensor)->fd, (off_t)tensor->begin, (off_t)tensor->bytes,
                        POSIX_FADV_DONTNEED);
}

npt_status npt_st_reopen(const npt_st *st, const npt_st_tensor *tensor, int flags, int *fd,
                         uint64_t *bytes)
{
    const shard *file = shard_of(st, tensor);
    struct stat before, now;
    int opened = open(file->path, O_RDONLY | O_CLOEXEC | flags);
    if (opened < 0)
        return npt_fail(errno == EINVAL ? NPT_E_UNSUPPORTED : NPT_E_IO, "%s: cannot open: %s",
                        file->path, strerror(errno));
    if (fstat(opened, &now) == 0 && fstat(file->fd, &before) == 0 && now.st_dev == before.st_dev &&
        now.st_ino == before.st_ino) {
        *fd = opened;
        *bytes = file->bytes;
        return NPT_OK;
    }
    close(opened);
    return npt_fail(NPT_E_IO, "%s: another file took its place; start again", file->path);
}

void npt_st_close(npt_st *st)
{
    if (st == NULL) return;
    /* With one shard the list is the shard's own. */
    if (st->shard_count > 1) npt_free(st->tensors);
    for (size_t i = 0; i < st->shard_count; i++) close_shard(&st->shards[i]);
    npt_free(st->shards);
    npt_free(st);
}

static bool is_usable(npt_dtype found, npt_dtype wanted)
{
    if (wanted != NPT_DTYPE_NONE) return found == wanted;
    return found == NPT_F32 || found == NPT_F16 || found == NPT_BF16;
}

/* "[2, 3]" */
static void show_shape(int rank, const int64_t *shape, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (int i = 0; i < rank && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%lld", i == 0 ? "" : ", ",
                                 (long long)shape[i]);
    if (used < bytes) (void)snprintf(text + used, bytes - used, "]");
}

npt_status npt_st_require(const npt_st *st, const char *name, npt_dtype dtype, int rank,
                          const int64_t *shape, const npt_st_tensor **tensor)
{
    enum { SHAPE_BYTES = 24 * NPT_MAX_RANK };
    const npt_st_tensor *found = npt_st_find(st, name);
    if (found == NULL)
        return npt_fail(NPT_E_FORMAT, "%s: no tensor '%s'", st->shards[0].path, name);
    if (!is_usable(found->dtype, dtype))
        return npt_fail(NPT_E_FORMAT, "%s: tensor '%s' is %s, not %s", found->file, name,
                        npt_st_dtype_name(found->dtype),
                        dtype == NPT_DTYPE_NONE ? "F32, F16 or BF16" : npt_st_dtype_name(dtype));
    if (found->rank == rank &&
        (rank == 0 || memcmp(found->shape, shape, (size_t)rank * sizeof *shape) == 0)) {
        *tensor = found;
        return NPT_OK;
    }
    char has[SHAPE_BYTES], wants[SHAPE_BYTES];
    show_shape(found->rank, found->shape, has, sizeof has);
    show_shape(rank, shape, wants, sizeof wants);
    return npt_fail(NPT_E_FORMAT, "%s: tensor '%s' has the shape %s, not %s", found->file, name,
                    has, wants);
}
