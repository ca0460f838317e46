import Foundation

extension PalimpsestError: LocalizedError {
    /// Rust's own message: whose fault it is and what to do.
    public var errorDescription: String? {
        switch self {
        case .Input(let message), .Reader(let message), .Device(let message), .Store(let message), .Busy(let message),
            .Cancelled(let message), .Closed(let message), .Internal(let message):
            return message
        }
    }
}

extension Value: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral, ExpressibleByBooleanLiteral {
    public init(stringLiteral value: String) { self = .text(value: value) }
    public init(integerLiteral value: Int64) { self = .integer(value: value) }
    public init(floatLiteral value: Double) { self = .number(value: value) }
    public init(booleanLiteral value: Bool) { self = .bool(value: value) }
}

extension Filter {
    /// Both hold.
    public static func && (left: Filter, right: Filter) -> Filter { .allOf(filters: [left, right]) }

    /// One holds at least.
    public static func || (left: Filter, right: Filter) -> Filter { .anyOf(filters: [left, right]) }

    /// It does not hold.
    public static prefix func ! (filter: Filter) -> Filter { .not(filter: filter) }
}
