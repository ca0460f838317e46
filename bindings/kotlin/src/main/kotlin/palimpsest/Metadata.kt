package palimpsest

/** Metadata from plain values: `metadataOf("year" to 2024, "language" to "en")`. */
fun metadataOf(vararg fields: Pair<String, Any>): Map<String, Value> = fields.associate { (name, value) -> name to valueOf(value) }

/** The field has this value. */
fun where(field: String, value: Any): Filter = Filter.Equals(field, valueOf(value))

/** The field has a value between the two, bounds included; without one it is open on that side. */
fun between(field: String, from: Any? = null, to: Any? = null): Filter =
    Filter.Between(field, from?.let(::valueOf), to?.let(::valueOf))

/** Both hold. */
infix fun Filter.and(other: Filter): Filter = Filter.AllOf(listOf(this, other))

/** One holds at least. */
infix fun Filter.or(other: Filter): Filter = Filter.AnyOf(listOf(this, other))

/** It does not hold. */
operator fun Filter.not(): Filter = Filter.Not(this)

private fun valueOf(value: Any): Value =
    when (value) {
        is Value -> value
        is Boolean -> Value.Bool(value)
        is Byte, is Short, is Int, is Long -> Value.Integer((value as Number).toLong())
        is Float, is Double -> Value.Number((value as Number).toDouble())
        is CharSequence -> Value.Text(value.toString())
        else -> throw IllegalArgumentException("metadata of ${value::class} is not kept: booleans, numbers and texts are")
    }
